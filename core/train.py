"""The one train loop: build the state on the mesh, then step, log, evaluate and save."""

import contextlib
import signal
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from core import checkpoint, run, sharding
from core.method import Method, load
from core.report import Reporter


class Preempted(Exception):
    """The run was asked to stop, has saved, and goes on when started again."""


class Plan(NamedTuple):
    """What a run needs on its mesh: shapes, layouts, and the two compiled programs."""

    mesh: jax.sharding.Mesh
    shapes: object
    layouts: object
    create: object
    step: object


def build(method: Method, mesh, *, seed: int) -> Plan:
    """Shapes first, then layouts; nothing is ever created unsharded."""
    key = jax.random.key(seed)
    shapes = jax.eval_shape(method.init, key)
    layouts = sharding.shardings(mesh, shapes)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def create():
        init = lambda key: sharding.unbox(method.init(key))  # noqa: E731
        return jax.jit(init, out_shardings=layouts)(key)

    step = jax.jit(method.step, donate_argnums=0, out_shardings=(layouts, everywhere))
    return Plan(mesh, shapes, layouts, create, step)


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens `every` steps happens now; always at the last.

    0 means only at the last step, -1 never.
    """
    return every >= 0 and (step == last or (every > 0 and step % every == 0))


@contextlib.contextmanager
def stop_signals():
    """Yields a function that says whether SIGTERM or Ctrl-C has come.

    The first signal is only noted; a second Ctrl-C ends the process at once.
    """
    seen = []

    def note(number, frame):
        seen.append(number)
        signal.signal(number, before[number])

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(stopping: bool, step: int) -> bool:
    """Whether to stop at this step: all processes of a job give the same answer."""
    if jax.process_count() == 1:
        return stopping
    return multihost_utils.reached_preemption_sync_point(step)


def begin(plan, checkpoints, source, *, init_from: str):
    """(state, first step): resume this run, else start from a checkpoint, else afresh."""
    if checkpoints.latest() is not None:
        state, cursor = checkpoints.restore(plan.shapes, plan.layouts)
        source.set_state(cursor)
        return state, int(state.step)
    if init_from:
        state = checkpoint.read(init_from, plan.shapes, plan.layouts)
        zero = jax.device_put(np.zeros((), np.int32), plan.layouts.step)
        return state.replace(step=zero), 0
    return plan.create(), 0


def fit(config, workdir, *, allow_config_change: bool = False):
    """Train `config` in `workdir`, or go on with what is there; returns the last state.

    Raises ValueError for what the user can mend, Preempted after a saved stop, Diverged
    after `config.max_bad_steps` updates in a row that were not finite.
    """
    mesh = sharding.make_mesh(**config.mesh)
    method = load(config)
    check_evals(config.eval_steps, method.evals)
    folder = run.open_folder(
        workdir, config.to_dict(), allow_change=allow_config_change
    )
    plan = build(method, mesh, seed=config.seed)
    with contextlib.ExitStack() as stack:
        source = method.source("train", sharding.host_shard(mesh, method.batch))
        stack.callback(source.close)
        checkpoints = stack.enter_context(
            checkpoint.Checkpoints(
                folder, save_steps=config.save_steps, keep=config.keep_checkpoints
            )
        )
        state, start = begin(plan, checkpoints, source, init_from=config.init_from)
        reporter = stack.enter_context(Reporter(folder, method, config, start))
        reporter.opening(plan)
        stopping = stack.enter_context(stop_signals())
        stack.enter_context(jax.set_mesh(mesh))
        clock, last = reporter.clock, config.steps
        for step in range(start + 1, last + 1):
            with clock.wait():
                batch = source.next(state)
            batch = sharding.to_device(mesh, batch, method.batch)
            with clock.pause() if step == start + 1 else contextlib.nullcontext():
                state, metrics = plan.step(state, batch)
            clock.count(method.batch)
            reporter.step(step, metrics, source)
            with clock.pause():
                for name, evaluate in method.evals.items():
                    if due(step, config.eval_steps[name], last) and not stopping():
                        reporter.found(step, evaluate(state))
                stop = step < last and agreed(stopping(), step)
                now = stop or step == last
                checkpoints.save(step, state, source.get_state(), force=now)
            if stop:
                checkpoints.wait()
                raise Preempted(f"stopped at step {step}; {folder} goes on from there")
        reporter.closing()
    return state


def check_evals(steps, evals):
    """Every evaluation has its interval, and every interval its evaluation."""
    if set(steps) != set(evals):
        raise ValueError(
            f"eval_steps names {sorted(steps)} but this method has {sorted(evals)}"
        )
