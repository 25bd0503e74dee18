"""The one train loop: build the state on the mesh, then step, save, evaluate and log."""

import contextlib
import functools

import jax

from core.config import check_config, check_section_names, load_method
from core.method import Method
from core.parallel.batches import host_shard, to_device
from core.parallel.mesh import copy_to_local_mesh, make_mesh
from core.program import build_program
from core.runs import checkpoint, run_folder
from core.runs.preemption import Preempted, stop_on_signals
from core.runs.reporter import Reporter
from core.runs.start import begin


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens `every` steps happens now; always at the last.

    0 means only at the last step, -1 never.
    """
    now = step == last or (every > 0 and step % every == 0)
    return step > 0 and every >= 0 and now


def due_evals(method: Method, config, step: int) -> dict:
    """The evaluations of this step: {name: function of the state}."""
    every, last = config.eval_steps, config.steps
    return {k: f for k, f in method.evals.items() if due(step, every[k], last)}


def evaluate(evals: dict, step: int, state, *, plan, reporter, stopping) -> bool:
    """Run evaluations by name at a step, in order; False if a stop has left some."""
    mesh = plan.mesh
    if evals:
        mesh, state = copy_to_local_mesh(
            mesh, jax.device_put(state, plan.device_layouts)
        )
    with jax.set_mesh(mesh):
        for name, one in evals.items():
            if stopping():
                return False
            reporter.evaluation(step, name, one, state)
    return True


def fit(config, workdir, *, allow_config_change: bool = False):
    """Train `config` in `workdir`, or go on with what is there; returns the last state.

    Raises ValueError for what the user can mend, Preempted after a saved stop, Diverged
    after `config.max_bad_steps` updates in a row that were not finite.
    """
    check_config(config.to_dict())
    method, mesh = load_method(config), make_mesh(**config.mesh)
    check_section_names("eval_steps", config.eval_steps, method.evals)
    shard = host_shard(mesh, method.batch)
    plan = build_program(method, mesh, seed=config.seed, offload=config.offload)
    last = config.steps
    folder = run_folder.open_folder(
        workdir, config.to_dict(), allow_change=allow_config_change
    )
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(stop_on_signals())
        stack.enter_context(run_folder.hold_lock(folder))
        source = method.source("train", shard, folder)
        source = stack.enter_context(contextlib.closing(source))
        checkpoints = checkpoint.Checkpoints(folder, keep=config.keep_checkpoints)
        stack.enter_context(checkpoints)
        choice = {"init_from": config.init_from, "init_parts": config.init_parts}
        state, start, origins = begin(method, plan, checkpoints, source, **choice)
        reporter = Reporter(folder, method, config, start)
        stack.callback(reporter.close)
        if start >= last and reporter.finished():
            reporter.say(f"{folder} is finished: {start} steps are done")
            return state
        reporter.opening(plan, origins)
        clock = reporter.clock
        judge = functools.partial(
            evaluate, plan=plan, reporter=reporter, stopping=stopping
        )
        left = reporter.unwritten(start, due_evals(method, config, start))
        done = judge(left, start, state)
        if stopping() and not (done and start == last):
            raise Preempted(f"stopped at step {start}; {folder} goes on from there")
        for step in range(start + 1, last + 1):
            with jax.transfer_guard("disallow"), jax.set_mesh(mesh):
                if method.acts:  # what the update still takes is no wait for data
                    jax.block_until_ready(state)
                with clock.wait():
                    batch = source.next(state)
                batch = to_device(mesh, batch, method.batch)
                with clock.pause() if step == start + 1 else contextlib.nullcontext():
                    state, metrics = plan.step(state, batch)
            reporter.step(step, metrics, source.report())
            saving = due(step, config.save_steps, last)
            evals = due_evals(method, config, step)
            if saving or evals:
                reporter.flush()
            with clock.pause():
                if saving and (step == last or not reporter.bad_steps):
                    checkpoints.save(step, state, source.get_state())
                done = judge(evals, step, state)
            if stopping() and not (done and step == last):
                reporter.flush()
                checkpoints.save(step, state, source.get_state())
                checkpoints.wait()
                raise Preempted(f"stopped at step {step}; {folder} goes on from there")
        checkpoints.wait()
        reporter.closing()
    return state
