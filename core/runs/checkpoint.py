"""Checkpoints of state and source cursor through Orbax; the only file that imports it."""

import contextlib
import functools
import gc
import io
import logging
import os
import pathlib
import re
import sys
import warnings

import jax
from orbax.checkpoint import v1 as ocp

from core.parallel.layouts import path_name, unbox


def not_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs each failure with its traceback from threads, beside raising it."""
    return "orbax" not in record.pathname and record.name != "asyncio"


for name in ("absl", "asyncio", None):
    logging.getLogger(name).addFilter(not_orbax)


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read, told in one sentence."""


class Checkpoints:
    """The numbered checkpoints of one run, written in the background, finished atomically.

    A save that is cut off leaves a temporary folder that the next start removes; the
    finished ones before it stay whole.
    """

    def __init__(self, workdir, *, keep: int):
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        self._writing = None
        newest = ocp.training.preservation_policies.LatestN(keep)
        with self._written():
            self._inner = ocp.training.Checkpointer(
                self.folder, cleanup_tmp_directories=True, preservation_policy=newest
            )

    def latest(self) -> int | None:
        """The newest step, one still being written included; None when there is none."""
        found = self._inner.latest
        return None if found is None else found.step

    def save(self, step: int, state, cursor: dict):
        """Start writing, unless this step was saved before; a failed write is told."""
        if step == self.latest():
            return
        self.wait()
        self._writing = step
        with self._written():
            self._inner.save_checkpointables_async(
                step, {"state": state, "source": cursor}, force=True
            )

    def wait(self):
        """Block until what was started is on disk; a failed write is told."""
        with self._written():
            self._inner.wait()

    def restore(self, shapes, layouts):
        """(state, cursor) of the newest, placed by `layouts` on whatever mesh they name."""
        step, like = self.latest(), abstract(shapes, layouts)
        older = [n for n in steps_in(self.folder) if n < step]
        go_on = f"go on from step {older[-1]}" if older else "begin anew"
        folder, parts = self.folder / str(step), {"state": like, "source": None}

        def load():
            check_arrays(folder, like)
            return self._inner.load_checkpointables(step, parts)

        found = told(load, folder, cure=f"delete that folder to {go_on}")
        return found["state"], found["source"]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        """Finish the last write and let go; an error on its way out is told, not a second."""
        try:
            with contextlib.suppress(*() if kind is None else (CheckpointError,)):
                self.wait()
        finally:
            self._inner.close()

    @contextlib.contextmanager
    def _written(self):
        """Tell a failed write in one sentence that says what is left."""
        try:
            yield
        except Exception as error:  # Orbax raises many kinds
            step, done = self._writing, steps_in(self.folder)
            what = (
                self.folder if step is None else f"checkpoint {self.folder / str(step)}"
            )
            left = f"; step {done[-1]} is intact" if done else ""
            raise CheckpointError(
                f"{what} cannot be written: {reason(error)}{left}; mend that and start again"
            ) from error


def read(folder, shapes, layouts, *, without: tuple[str, ...] = ()):
    """The state of a checkpoint anywhere: a run's folder (its newest) or one step's.

    Fields named in `without` are left on the disk; the state has None in their place.
    """
    folder, like = find(folder), abstract(shapes, layouts)
    gaps = {
        name: jax.tree.map(lambda _: ocp.PLACEHOLDER, getattr(like, name))
        for name in without
    }

    def load():
        check_arrays(folder, like)
        wanted = like.replace(**gaps) if gaps else like
        state = ocp.load(folder, wanted, checkpointable_name="state")
        return state.replace(**dict.fromkeys(gaps)) if gaps else state

    return told(load, folder, cure="use another one")


def read_parts(folder, like: dict) -> dict:
    """Some arrays of the state in a checkpoint anywhere; the rest stays on the disk.

    like: "field" or "field/entry" -> abstract arrays with layouts; the result has arrays
    in their place. Raises CheckpointError if the checkpoint has others there.
    """
    folder = find(folder)

    def load():
        there = ocp.metadata(folder, checkpointable_name="state").metadata
        inside = tuple(f"{path}/" for path in like)
        found = {k: v for k, v in sizes(there).items() if f"{k}/".startswith(inside)}
        check_sizes(folder, found, sizes(like))
        wanted = named(like)
        state = jax.tree_util.tree_map_with_path(
            lambda path, _: wanted.get(path_name(path), ocp.PLACEHOLDER), there
        )
        arrays = named(ocp.load(folder, state, checkpointable_name="state"))
        return jax.tree_util.tree_map_with_path(
            lambda path, _: arrays[path_name(path)], like
        )

    return told(load, folder, cure="use another one")


def named(tree) -> dict:
    """ "a/b" -> leaf, of every leaf."""
    return {path_name(k): x for k, x in jax.tree_util.tree_leaves_with_path(tree)}


def find(folder) -> pathlib.Path:
    """The newest step below a run's folder or its checkpoints; else a step's own folder."""
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
    """The finished steps in a folder of checkpoints, ascending."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def abstract(shapes, layouts):
    """Shapes and layouts as one tree that Orbax restores into."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        unbox(shapes),
        layouts,
    )


def check_arrays(folder: pathlib.Path, like):
    """Refuse a checkpoint whose arrays are not those of `like`, naming the first."""
    there = sizes(ocp.metadata(folder, checkpointable_name="state").metadata)
    if not there:
        raise ValueError("its list of arrays cannot be read")
    check_sizes(folder, there, sizes(like))


def check_sizes(folder: pathlib.Path, there: dict, here: dict):
    """Refuse a checkpoint with arrays of other sizes than here, naming the first."""
    differ = sorted(k for k in there | here if there.get(k) != here.get(k))
    if differ:
        name = differ[0]
        raise CheckpointError(
            f"checkpoint {folder} is of another network: {name} is "
            f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
            + (f", and {len(differ) - 1} more arrays differ" if differ[1:] else "")
        )


def sizes(tree) -> dict:
    """ "a/b" -> shape, of every array."""
    return {name: tuple(x.shape) for name, x in named(tree).items()}


def told(load, folder: pathlib.Path, *, cure: str):
    """What `load()` gives; a checkpoint that it cannot read is told in one sentence."""
    # Threads and coroutines that Orbax leaves behind when it fails complain on their own.
    hook = sys.unraisablehook
    sys.unraisablehook = functools.partial(hush, hook)
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            found = load()
            sys.unraisablehook = hook
            return found
        except CheckpointError:
            raise
        except Exception as error:  # Orbax raises many kinds
            why = reason(error)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")
        gc.collect()
    raise CheckpointError(f"checkpoint {folder} is damaged ({why}); {cure}")


def hush(hook, unraisable):
    """Call the hook, unless a coroutine of Orbax complains or that its loop has closed."""
    code = getattr(unraisable.object, "cr_code", None)
    ours = code is None or "orbax" not in code.co_filename
    if ours and str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def reason(error: BaseException) -> str:
    """The system's word for an error where its text carries one, else its own."""
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
