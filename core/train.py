"""The one train loop: build the state on the mesh, then step, save, evaluate and log."""

import contextlib
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax

from core.base.waiting import SourceFailed, Stopped
from core.config import check_config, check_section_names, load_method
from core.method import Eval, Method, Source, Watch
from core.parallel import peers
from core.parallel.batches import host_shard, to_device
from core.parallel.mesh import copy_to_local_mesh, make_mesh
from core.program import Program, build_program
from core.runs import checkpoint, data_change, mirror, preemption, rollback, run_folder
from core.runs.preemption import Preempted
from core.runs.reporter import Diverged, Reporter
from core.runs.start import Start, begin
from core.runs.throughput import fitting
from core.runs.watchdog import Watchdog
from core.runs.working import log_compiler, say, working


class Run(NamedTuple):
    """What a run has open while it trains, in its folder.

    send: writes what changed there to the bucket, if the folder mirrors one.
    """

    method: Method
    program: Program
    folder: pathlib.Path
    source: Source
    checkpoints: checkpoint.Checkpoints
    data: data_change.Fingerprints
    send: Callable[[], None]


def fit(
    config,
    workdir,
    *,
    allow_config_change: bool = False,
    allow_data_change: bool = False,
    restore_step: int | None = None,
):
    """Train a config in `workdir`, or resume the run there; returns the last state.

    A resume with another config or other data is refused unless it is allowed. It begins at
    the newest checkpoint that is whole, or at that of `restore_step`.

    Raises:
      ValueError: what the user can correct, in one sentence.
      Preempted: a stop was requested and the run is saved.
      Diverged: `config.max_bad_steps` consecutive updates were not applied, and
        `config.guard.rollback` rollbacks did not help.
      SourceFailed: no batch comes; the run is saved if this is its only process.
    """
    check_config(config.to_dict())
    with preemption.stop_on_signals() as stopping:
        while True:
            try:
                return train(
                    config,
                    workdir,
                    stopping,
                    allow_config_change=allow_config_change,
                    allow_data_change=allow_data_change,
                    restore_step=restore_step,
                )
            except RolledBack as back:
                say(str(back))
            restore_step = None


class RolledBack(Exception):
    """The run diverged and goes on from its last checkpoint, with later data."""


def train(
    config,
    workdir,
    stopping,
    *,
    allow_config_change: bool,
    allow_data_change: bool,
    restore_step: int | None,
):
    """`fit` up to the first rollback, of which it raises RolledBack."""
    last = config.steps
    with contextlib.ExitStack() as stack:
        with preemption.nothing_to_save(stopping, workdir):
            run = open_run(config, workdir, stack, allow_change=allow_config_change)
            state, start, origins = begin_run(
                config, run, allow_data_change, restore_step
            )
        method, program, folder, source, checkpoints, data, send = run
        reporter = Reporter(folder, method, config, start)
        stack.callback(reporter.close)
        if start >= last and reporter.finished():
            say(f"{mirror.shown(folder)} is finished: {start} steps are done")
            return state
        reporter.opening(program, origins)
        if jax.process_index() == 0:
            data_change.record_data(folder, data)
        watchdog = stack.enter_context(Watchdog(folder, config.guard.hang_s))
        evaluate = functools.partial(
            run_evals, program=program, reporter=reporter, stopping=stopping
        )
        missing = reporter.unwritten(start, due_evals(method, config, start))
        step = start
        with watchdog.paused(), reporter.clock.pause("evaluate"):
            done = evaluate(missing, start, state)
        try:
            while step < last:
                stopping.check()
                with watchdog.paused() if reporter.first else contextlib.nullcontext():
                    state, metrics = advance(run, state, reporter, stopping)
                step += 1
                reporter.step(step, metrics, source.report())
                watchdog.step()
                saving = due(step, config.save_steps, last) or checkpoints.failed()
                evals = due_evals(method, config, step)
                if saving or evals:
                    reporter.flush()
                if saving and (step == last or not reporter.bad_steps):
                    with reporter.saving():
                        cursor = source.get_state()
                        send()
                        checkpoints.save(step, state, cursor, whole=step == last)
                with watchdog.paused(), reporter.clock.pause("evaluate"):
                    done = evaluate(evals, step, state)
            if not done:
                raise Stopped
        except Stopped:
            keep(run, step, state, reporter)
            place = mirror.shown(folder)
            text = f"stopped at step {step}; {place} resumes from there"
            raise Preempted(text) from None
        except SourceFailed:
            if jax.process_count() == 1:
                keep(run, step, state, reporter)
            raise
        except Diverged as error:
            roll_back(config, run, step, error)
        reporter.closing()
    return state


@working("opening the data", at_once=False)
def open_run(config, workdir, stack, *, allow_change: bool) -> Run:
    """Check a config and open what it trains with; `stack` closes it."""
    method, mesh = load_method(config), make_mesh(**config.mesh)
    check_section_names("eval_steps", config.eval_steps, method.evals)
    if method.acts and config.guard.rollback:
        raise ValueError(
            f"guard.rollback is {config.guard.rollback}, but this method collects its own "
            "data, which cannot be skipped; use 0"
        )
    shard = host_shard(mesh, method.batch)
    program = build_program(
        method, mesh, seed=config.seed, offload=config.offload, norm=config.guard.norm
    )
    folder, send = stack.enter_context(run_folder.at(workdir))
    run_folder.open_folder(folder, config.to_dict(), allow_change=allow_change)
    stack.enter_context(run_folder.hold_lock(folder))
    source = method.source("train", shard, folder)
    stack.enter_context(contextlib.closing(source))
    checkpoints = checkpoint.Checkpoints(folder, keep=config.keep_checkpoints, say=say)
    stack.enter_context(checkpoints)
    data = data_change.fingerprints(source)
    return Run(method, program, folder, source, checkpoints, data, send)


@working("building the state")
def begin_run(config, run: Run, allow_data_change: bool, restore_step) -> Start:
    """The state that a run begins with, its steps, and where its arrays come from."""
    if run.checkpoints.latest() is not None:
        data_change.check_data(run.folder, run.data, allow_change=allow_data_change)
    choice = {"init_from": config.init_from, "init_parts": config.init_parts}
    choice |= {"restore_step": restore_step}
    with log_compiler(run.folder):
        begun = begin(run.method, run.program, run.checkpoints, run.source, **choice)
    if (cursor := rollback.cursor_after(run.folder, begun.step)) is not None:
        run.source.set_state(cursor)
    return begun


def roll_back(config, run: Run, step: int, error: Diverged):
    """Note a rollback to the newest checkpoint and raise RolledBack; or raise `error`."""
    run.checkpoints.wait()
    kept, most = run.checkpoints.latest() or 0, config.guard.rollback
    if run.method.acts or len(rollback.read_rollbacks(run.folder)) >= most:
        raise error
    cursor = run.source.get_state()
    rollback.note_rollback(run.folder, diverged=step, step=kept, cursor=cursor)
    raise RolledBack(
        f"step {step}: {run.method.unit} up to here are skipped; going on from step {kept}"
    ) from error


def keep(run: Run, step: int, state, reporter):
    """Save a state before the run ends; a state with which it began is kept already."""
    if step > reporter.start:
        reporter.flush()
        cursor = run.source.get_state()
        run.send()
        run.checkpoints.save(step, state, cursor, whole=True)
        say(f"step {step} is saved")


def advance(run: Run, state, reporter, stopping):
    """(state, metrics) after one update on the source's next batch.

    The clock of the reporter counts the wait for data; the first step, which compiles,
    does not count. Raises Stopped or SourceFailed where no batch comes; the state is
    intact then.
    """
    method, program, source = run.method, run.program, run.source
    first, nothing = reporter.first, contextlib.nullcontext()
    with jax.transfer_guard("disallow"), jax.set_mesh(program.mesh):
        if method.acts:  # the rest of an update is not a wait for data
            jax.block_until_ready(state)
        reading = working("reading the first batch") if first else nothing
        with reading, reporter.clock.wait():
            batch = source.next(state, stopping.overdue)
        with reporter.first_step(batch) if first else nothing:
            return program.step(state, to_device(program.mesh, batch, method.batch))


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens `every` steps is due, or is due after the last step.

    0 means only after the last step, -1 never.
    """
    now = step == last or (every > 0 and step % every == 0)
    return step > 0 and every >= 0 and now


def due_evals(method: Method, config, step: int) -> dict[str, Eval]:
    """The evaluations that are due after a step, by name."""
    every = fitting(config.eval_steps.to_dict(), config.steps)
    return {k: f for k, f in method.evals.items() if due(step, every[k], config.steps)}


def run_evals(
    evals: dict[str, Eval], step: int, state, *, program: Program, reporter, stopping
) -> bool:
    """Run evaluations in order; returns whether all have run, False after a stop.

    A stop is asked for by `watch`, or breaks off what does not ask. With several processes
    each evaluates on its own devices. None goes on to train while another evaluates, so that
    a stop that is requested meanwhile takes place at this step.
    """
    if not evals:
        return True
    mesh, layouts = program.mesh, program.device_layouts
    mesh, state = copy_to_local_mesh(mesh, jax.device_put(state, layouts))
    done = True
    with jax.set_mesh(mesh):
        for name, evaluate in evals.items():
            if stopping():
                return False
            watch = Watch(functools.partial(say_at, step, name), stopping.late)
            evaluate = stopping.breakable(functools.partial(evaluate, watch=watch))
            try:
                reporter.evaluation(step, name, evaluate, state)
            except (preemption.Interrupted, Stopped):
                done = False
    peers.meet(f"evaluated/{step}")
    return not stopping() and done


def say_at(step: int, name: str, text: str) -> None:
    """Print what an evaluation says of its progress."""
    say(f"step {step}: {name}: {text}")
