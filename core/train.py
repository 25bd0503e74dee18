"""The one train loop: build the state on the mesh, then step, save, evaluate and log."""

import contextlib
import functools

import jax

from core.config import check_config, check_section_names, load_method
from core.method import Eval, Method, Source
from core.parallel.batches import host_shard, to_device
from core.parallel.mesh import copy_to_local_mesh, make_mesh
from core.program import Program, build_program
from core.runs import checkpoint, data_change, run_folder
from core.runs.preemption import Preempted, stop_on_signals
from core.runs.reporter import Reporter
from core.runs.start import begin


def fit(
    config,
    workdir,
    *,
    allow_config_change: bool = False,
    allow_data_change: bool = False,
):
    """Train a config in `workdir`, or resume the run there; returns the last state.

    A resume with another config or other data is refused unless it is allowed.

    Raises:
      ValueError: what the user can correct, in one sentence.
      Preempted: a stop was requested and the run is saved.
      Diverged: `config.max_bad_steps` consecutive updates were not finite.
    """
    check_config(config.to_dict())
    method, mesh = load_method(config), make_mesh(**config.mesh)
    check_section_names("eval_steps", config.eval_steps, method.evals)
    shard, last = host_shard(mesh, method.batch), config.steps
    program = build_program(method, mesh, seed=config.seed, offload=config.offload)
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
        data = data_change.fingerprints(source)
        if checkpoints.latest() is not None:
            data_change.check_data(folder, data, allow_change=allow_data_change)
        choice = {"init_from": config.init_from, "init_parts": config.init_parts}
        state, start, origins = begin(method, program, checkpoints, source, **choice)
        reporter = Reporter(folder, method, config, start)
        stack.callback(reporter.close)
        if start >= last and reporter.finished():
            reporter.say(f"{folder} is finished: {start} steps are done")
            return state
        reporter.opening(program, origins)
        if jax.process_index() == 0:
            data_change.record_data(folder, data)
        evaluate = functools.partial(
            run_evals, program=program, reporter=reporter, stopping=stopping
        )
        missing = reporter.unwritten(start, due_evals(method, config, start))
        done = evaluate(missing, start, state)
        if stopping() and not (done and start == last):
            raise Preempted(f"stopped at step {start}; {folder} resumes from there")
        for step in range(start + 1, last + 1):
            first = step == start + 1
            state, metrics = advance(method, program, source, state, reporter, first)
            reporter.step(step, metrics, source.report())
            saving, evals = (
                due(step, config.save_steps, last),
                due_evals(method, config, step),
            )
            if saving or evals:
                reporter.flush()
            with reporter.clock.pause():
                if saving and (step == last or not reporter.bad_steps):
                    checkpoints.save(step, state, source.get_state())
                done = evaluate(evals, step, state)
            if stopping() and not (done and step == last):
                reporter.flush()
                checkpoints.save(step, state, source.get_state())
                checkpoints.wait()
                raise Preempted(f"stopped at step {step}; {folder} resumes from there")
        checkpoints.wait()
        reporter.closing()
    return state


def advance(
    method: Method, program: Program, source: Source, state, reporter, first: bool
):
    """(state, metrics) after one update on the source's next batch.

    The clock of the reporter counts the wait for data; the first step, which compiles,
    does not count.
    """
    clock = reporter.clock
    with jax.transfer_guard("disallow"), jax.set_mesh(program.mesh):
        if method.acts:  # the rest of an update is not a wait for data
            jax.block_until_ready(state)
        with clock.wait():
            batch = source.next(state)
        batch = to_device(program.mesh, batch, method.batch)
        with clock.pause() if first else contextlib.nullcontext():
            return program.step(state, batch)


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens `every` steps is due; always after the last step.

    0 means only after the last step, -1 never.
    """
    now = step == last or (every > 0 and step % every == 0)
    return step > 0 and every >= 0 and now


def due_evals(method: Method, config, step: int) -> dict[str, Eval]:
    """The evaluations that are due after a step, by name."""
    every, last = config.eval_steps, config.steps
    return {k: f for k, f in method.evals.items() if due(step, every[k], last)}


def run_evals(
    evals: dict[str, Eval], step: int, state, *, program: Program, reporter, stopping
) -> bool:
    """Run evaluations in order; returns whether all have run, False after a stop."""
    mesh = program.mesh
    if evals:
        state = jax.device_put(state, program.device_layouts)
        mesh, state = copy_to_local_mesh(mesh, state)
    with jax.set_mesh(mesh):
        for name, evaluate in evals.items():
            if stopping():
                return False
            reporter.evaluation(step, name, evaluate, state)
    return True
