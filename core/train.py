"""The one train loop: build the state on the mesh, then step, log, evaluate and save."""

import contextlib
import signal
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from core import checkpoint, metrics, run, sharding
from core.method import Method, load


class Preempted(Exception):
    """The run was asked to stop, has saved, and goes on when started again."""


class Diverged(ValueError):
    """Too many updates in a row were not finite."""


class Plan(NamedTuple):
    """What a run needs on its mesh: shapes, layouts, and the two compiled programs."""

    mesh: jax.sharding.Mesh
    shapes: object
    layouts: object
    create: object
    step: object


def build(method: Method, mesh, *, seed: int, example: dict) -> Plan:
    """Shapes first, then layouts; nothing is ever created unsharded."""
    key = jax.random.key(seed)
    shapes = jax.eval_shape(method.init, key, example)
    layouts = sharding.shardings(mesh, shapes)
    replicated = NamedSharding(mesh, PartitionSpec())

    def create():
        def init(key):
            return sharding.unbox(method.init(key, example))

        return jax.jit(init, out_shardings=layouts)(key)

    step = jax.jit(
        method.step, donate_argnums=0, out_shardings=(layouts, replicated)
    )
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
    folder = run.open_folder(workdir, config.to_dict(), allow_change=allow_config_change)
    source = method.source("train", sharding.host_shard(mesh, method.batch))
    plan = build(method, mesh, seed=config.seed, example=source.example())
    every, steps = config.every, config.steps
    main = jax.process_index() == 0
    check_evals(every, method)
    with contextlib.ExitStack() as stack:
        stack.callback(source.close)
        checkpoints = checkpoint.Checkpoints(folder, save_steps=every.save, keep=every.keep)
        state, start = begin(plan, checkpoints, source, init_from=config.init_from)
        writer = metrics.Writer(folder, resume_step=start, active=main)
        stack.callback(writer.close)
        clock = metrics.Throughput(unit=method.unit)
        record_start(folder, plan, config, main and start == 0)
        stopping = stack.enter_context(stop_signals())
        stack.enter_context(jax.set_mesh(mesh))
        before = None
        for i in range(start, steps):
            with clock.waiting():
                batch = source.next(state)
            state, scalars = plan.step(state, sharding.to_device(mesh, batch, method.batch))
            clock.step(method.batch)
            check_bad_steps(before, i, config.max_bad_steps, checkpoints)
            before = scalars
            if due(i + 1, every.log, steps):
                log(writer, clock, i + 1, steps, scalars, source, start)
            with clock.pause():
                for name, evaluate in method.evals.items():
                    if due(i + 1, every[name], steps) and not stopping():
                        write_eval(writer, i + 1, name, evaluate(state))
                stop = agreed(stopping(), i + 1) and i + 1 < steps
                checkpoints.save(
                    i + 1, state, source.get_state(), force=stop or i + 1 == steps
                )
            if stop:
                checkpoints.close()
                raise Preempted(f"stopped at step {i + 1}, saved in {folder}")
        check_bad_steps(before, steps, config.max_bad_steps, checkpoints)
        checkpoints.close()
        writer.summary(folder / "summary.json")
    return state
