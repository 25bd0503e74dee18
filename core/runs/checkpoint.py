"""Saves and restores state and source cursor; the only file that imports Orbax."""

import contextlib
import gc
import logging
import os
import pathlib
import re
import sys
import time
import warnings

import jax
from orbax.checkpoint import v1 as ocp

from core.parallel.layouts import unbox

LOOP_CLOSED = "Event loop is closed"
SETTLE_SECONDS = 0.2  # after a failed load: its other reads, still running, fail too


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; the message is one sentence."""


class Checkpoints:
    """The checkpoints of one run by step, written in the background; a context manager.

    A save that is interrupted leaves a temporary folder, which the next start removes.
    Finished checkpoints are never changed; the newest `keep` stay.
    """

    def __init__(self, workdir, *, keep: int):
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        self._writing = None  # the step whose write was started last
        self._quiet = contextlib.ExitStack()
        newest = ocp.training.preservation_policies.LatestN(keep)
        with quiet_orbax(), self._explain_failed_write():
            self._inner = ocp.training.Checkpointer(
                self.folder, cleanup_tmp_directories=True, preservation_policy=newest
            )

    def latest(self) -> int | None:
        """The newest step, including one that is still being written; None without any."""
        found = self._inner.latest
        return None if found is None else found.step

    def save(self, step: int, state, cursor: dict):
        """Start writing `step` in the background, unless it was saved already.

        `cursor` is what the source's `get_state` returned. Raises CheckpointError if this
        write cannot begin or the one before it failed.
        """
        if step == self.latest():
            return
        self.wait()
        self._writing = step
        with self._explain_failed_write():
            self._inner.save_checkpointables_async(
                step, {"state": state, "source": cursor}, force=True
            )

    def wait(self):
        """Wait until the write is on disk; raises CheckpointError if it failed."""
        with self._explain_failed_write():
            self._inner.wait()

    def restore(self, shapes, layouts):
        """(state, cursor) of the newest checkpoint, laid out by `layouts` on their mesh.

        Raises CheckpointError if the checkpoint is damaged or of another network.
        """
        step, like = self.latest(), abstract(shapes, layouts)
        older = [n for n in steps_in(self.folder) if n < step]
        rest = f"go on from step {older[-1]}" if older else "start from scratch"
        folder, parts = self.folder / str(step), {"state": like, "source": None}

        def load():
            check_arrays(folder, like)
            return self._inner.load_checkpointables(step, parts)

        found = explain_damage(load, folder, cure=f"delete that folder to {rest}")
        return found["state"], found["source"]

    def __enter__(self):
        # Threads that write log their failures while the run does something else.
        self._quiet.enter_context(quiet_orbax())
        return self

    def __exit__(self, kind, *_):
        """Finish the last write; its failure does not hide an error that ends the run."""
        with self._quiet:
            try:
                with contextlib.suppress(*() if kind is None else (CheckpointError,)):
                    self.wait()
            finally:
                self._inner.close()

    @contextlib.contextmanager
    def _explain_failed_write(self):
        """Turn an error into a CheckpointError that names the last intact step."""
        try:
            yield
        except Exception as error:  # Orbax raises many kinds
            step, done = self._writing, steps_in(self.folder)
            what = (
                self.folder if step is None else f"checkpoint {self.folder / str(step)}"
            )
            left = f"; step {done[-1]} is intact" if done else ""
            raise CheckpointError(
                f"{what} cannot be written: {reason(error)}{left}; fix that and start again"
            ) from error


def read(folder, shapes, layouts, *, without: tuple[str, ...] = ()):
    """The state in a run's folder (its newest checkpoint) or in CHECKPOINTS/STEP.

    Fields named in `without` are not read; they are None in the state. Raises
    CheckpointError if there is no checkpoint, or it is damaged or of another network.
    """
    folder, like = find_step_folder(folder), abstract(shapes, layouts)
    gaps = {
        name: jax.tree.map(lambda _: ocp.PLACEHOLDER, getattr(like, name))
        for name in without
    }

    def load():
        check_arrays(folder, like)
        wanted = like.replace(**gaps) if gaps else like
        state = ocp.load(folder, wanted, checkpointable_name="state")
        return state.replace(**dict.fromkeys(gaps)) if gaps else state

    return explain_damage(load, folder, cure="use another one")


def find_step_folder(folder) -> pathlib.Path:
    """The newest step in a run's folder or in its checkpoints; a step's folder itself.

    Raises CheckpointError if `folder` is none of them.
    """
    folder = pathlib.Path(folder).absolute()
    for inner in (folder / "checkpoints", folder):
        if steps := steps_in(inner):
            return inner / str(steps[-1])
    if not (folder / "state").is_dir():
        raise CheckpointError(
            f"{folder} holds no checkpoint; name a run's folder or its checkpoints/STEP"
        )
    return folder


def steps_in(folder: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def abstract(shapes, layouts):
    """A tree of jax.ShapeDtypeStruct with shardings, which Orbax restores into."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        unbox(shapes),
        layouts,
    )


def check_arrays(folder: pathlib.Path, like):
    """Raise CheckpointError if the names or shapes of arrays differ from those of `like`."""
    there = shapes_by_name(ocp.metadata(folder, checkpointable_name="state").metadata)
    here = shapes_by_name(like)
    if not there:
        raise ValueError("its list of arrays cannot be read")
    differ = sorted(k for k in there | here if there.get(k) != here.get(k))
    if differ:
        name = differ[0]
        raise CheckpointError(
            f"checkpoint {folder} is of another network: {name} is "
            f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
            + (f", and {len(differ) - 1} more arrays differ" if differ[1:] else "")
        )


def shapes_by_name(tree) -> dict[str, tuple[int, ...]]:
    """{"a/b": shape} of every array in a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = jax.tree_util.keystr
    return {name(k, simple=True, separator="/"): tuple(x.shape) for k, x in leaves}


def explain_damage(load, folder: pathlib.Path, *, cure: str):
    """`load()`; raises CheckpointError with `cure` if Orbax cannot read the checkpoint."""
    with quiet_orbax():
        try:
            return load()
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001, Orbax raises many kinds
            why = reason(error)
        time.sleep(SETTLE_SECONDS)
        gc.collect()  # what is left behind complains now, while it is silenced
    raise CheckpointError(f"checkpoint {folder} is damaged ({why}); {cure}")


@contextlib.contextmanager
def quiet_orbax():
    """Silence what Orbax prints of an error that it also raises; may be nested.

    It logs the error from its threads, leaves coroutines that were never awaited and
    callbacks of an event loop that is closed. All hooks and filters are restored.
    """

    def not_orbax(record):
        return "orbax" not in record.pathname and record.name != "asyncio"

    def report(found):
        code = getattr(found.object, "cr_code", None)
        from_orbax = code is not None and "orbax" in code.co_filename
        if not from_orbax and str(found.exc_value) != LOOP_CLOSED:
            hook(found)

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio", None)]
    hook = sys.unraisablehook
    for logger in loggers:
        logger.addFilter(not_orbax)
    sys.unraisablehook = report
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited")
            yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(not_orbax)


def reason(error: BaseException) -> str:
    """The operating system's text for the first cause of an error, else its own text."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    chain = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    for link in reversed(chain):
        code = re.search(r"os_error_code='(\d+)'", str(link))
        if code or getattr(link, "errno", None):
            return os.strerror(int(code[1]) if code else link.errno).lower()
    text = " ".join(str(chain[-1]).split())
    return f"{type(chain[-1]).__name__}: {text}"[:120]
