"""Saves and restores state and source cursor; the only file that imports Orbax."""

import contextlib
import gc
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from core.base.buckets import is_bucket, move
from core.parallel import peers
from core.parallel.layouts import path_name, unbox
from core.runs import integrity, mirror
from core.runs.orbax_errors import quiet_orbax, reason
from core.runs.orbax_s3 import allow_s3

UNFINISHED = ".orbax-checkpoint-tmp"  # after the step in the name of a folder
COMPLETE = "commit_success.txt"  # in a bucket, where nothing is renamed
PAUSES = (1.0, 5.0, 25.0)  # seconds before a failed write is tried again
SAVE_S = 600  # after which a write has failed that some processes have not completed
CURE = "; fix that and start again"
SETTLE_SECONDS = 0.2  # after a failed load: its other reads, still running, fail too


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; the message is one sentence."""


class Damaged(CheckpointError):
    """The files of a checkpoint are not what was written.

    why: what was found. whole: the newest older step that is whole, None without any.
    """

    def __init__(self, text: str, *, why: str, whole: int | None):
        super().__init__(text)
        self.why, self.whole = why, whole


class Checkpoints:
    """The checkpoints of one run by step, written in the background; a context manager.

    A save that is interrupted leaves a temporary folder, which the next start removes.
    Finished checkpoints are never changed; the newest `keep` stay, and an older one is
    removed when the next is complete.
    """

    def __init__(self, workdir, *, keep: int, say: Callable[[str], None] = print):
        self._say = say
        folder = mirror.within(pathlib.Path(workdir).absolute(), mirror.CHECKPOINTS)
        self.folder = ready(folder)
        self._writing = None  # the step whose write was started last
        self._failures = 0  # writes that failed in a row, in any process
        self._openings = 0
        self._rounds = peers.Rounds("checkpoints")
        self._whole = None  # a step that is known to be on disk
        self._quiet = contextlib.ExitStack()
        self._keep = keep
        self._open()

    def _open(self):
        newest = ocp.training.preservation_policies.LatestN(self._keep)
        # Called by process 0, in the background, before the folder gets its name. Orbax
        # copies its options deeply: a bound method would come with a copy of this object.
        seal = ocp.options.AsyncOptions(
            timeout_secs=SAVE_S, post_finalization_callback=lambda: self._seal()
        )
        self._openings += 1  # barriers have new names: some processes left the others
        names = ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=f"opening{self._openings}"
        )
        with quiet_orbax(), self._explain_failed_write():
            # Orbax would do this in a thread, which may outlive an error.
            if jax.process_index() == 0:
                for folder in unfinished_in(self.folder):
                    remove(folder)
            self._inner = ocp.training.Checkpointer(
                self.folder,
                preservation_policy=newest,
                context=ocp.Context(async_options=seal, multiprocessing_options=names),
            )

    def latest(self) -> int | None:
        """The newest step, including one that is still being written; None without any."""
        found = self._inner.latest
        return None if found is None else found.step

    def save(self, step: int, state, cursor: dict, *, whole: bool = False):
        """Write `step` in the background, unless it was saved already.

        If the write before this one failed, or this one cannot begin, it is tried again
        after a pause; the run stands still meanwhile. As many writes in a row as there are
        PAUSES may fail. A write that fails in one process is tried again by all, who know of
        it when it is not complete after SAVE_S.

        Args:
          cursor: what the source's `get_state` returned.
          whole: return when the checkpoint is on disk; a write that fails is tried again.

        Raises CheckpointError if the last try fails; earlier checkpoints are intact.
        """
        while True:
            try:
                if step != self._writing:
                    self._finish()
                if step != self.latest():
                    self._together(lambda: self._start(step, state, cursor))
                if whole:
                    self._finish()
                return
            except CheckpointError as error:
                self._failures += 1
                if self._failures > len(PAUSES):
                    raise
                pause = PAUSES[self._failures - 1]
                text = str(error).removesuffix(CURE)
                self._say(f"{text}; trying again in {pause:g} s")
            time.sleep(pause)
            self._reopen()

    def _finish(self):
        """Wait for the last write; a success ends the count of failures in a row."""
        self._together(self.wait)
        if self._writing is not None:
            self._failures = 0

    def _together(self, act: Callable[[], None]):
        """Call `act` in all processes; raises CheckpointError in all if it failed in one."""
        failure = None
        try:
            act()
        except CheckpointError as error:
            failure = error
        texts = [text for text in self._rounds.hear_all(str(failure or "")) if text]
        if (
            texts
        ):  # the cause, which is a timeout in processes that wait for the other one
            cause = min(texts, key=lambda text: "Timeout" in text)
            raise CheckpointError(cause) from failure

    def failed(self) -> bool:
        """Whether the last write has failed; known in a job of one process only."""
        step = self._writing
        if step in (None, self._whole) or jax.process_count() > 1:
            return False
        if self._inner.is_saving_in_progress():
            return False
        if step in steps_in(self.folder):
            self._whole = step
            return False
        return True

    def set_aside(self, step: int) -> pathlib.Path:
        """Move a checkpoint to FOLDER/set_aside/STEP; returns where it is."""
        place = self.folder.parent / mirror.ASIDE / str(step)
        if jax.process_index() == 0:
            while place.exists():
                place = place.with_name(f"{place.name}_")
            if is_bucket(place):
                move(self.folder / str(step), place)
            else:
                place.parent.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(place)
        peers.meet(f"set_aside/{step}")
        with quiet_orbax():
            self._inner.reload()
        return place

    def _reopen(self):
        """Forget a failed write; removes what it left behind."""
        with quiet_orbax(), contextlib.suppress(Exception):
            self._inner.close()
        self._writing = None
        self._open()

    def _start(self, step: int, state, cursor: dict):
        """Begin to write a step."""
        self._writing = step
        with self._explain_failed_write():
            self._inner.save_checkpointables_async(
                step,
                {"state": state, "source": cursor},
                force=True,
                custom_metadata=integrity.MARK,
            )

    def _seal(self):
        """Write the digests of the checkpoint that is being written."""
        suffix = "" if is_bucket(self.folder) else UNFINISHED
        integrity.seal(self.folder / f"{self._writing}{suffix}")

    def wait(self):
        """Wait until the write is on disk; raises CheckpointError if it failed."""
        with self._explain_failed_write():
            self._inner.wait()

    def restore(self, shapes, layouts):
        """(state, cursor) of the newest checkpoint, laid out by `layouts` on their mesh.

        Raises Damaged if its files are not what was written, CheckpointError if it is of
        another network or of another step than its name. The error names an older one.
        """
        step, like = self.latest(), abstract(shapes, layouts)
        folder, parts = self.folder / str(step), {"state": like, "source": None}

        def load():
            check_arrays(folder, like)
            found = self._inner.load_checkpointables(step, parts)
            check_step(folder, found["state"].step)
            return found["state"], found["source"]

        return load_whole(load, folder, cure="move that folder away to go on from it")

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
        except Exception as error:
            step, done = self._writing, steps_in(self.folder)
            what = (
                self.folder if step is None else f"checkpoint {self.folder / str(step)}"
            )
            left = f"; step {done[-1]} is intact" if done else ""
            raise CheckpointError(
                f"{what} cannot be written: {reason(error)}{left}{CURE}"
            ) from error


def remove(folder: pathlib.Path) -> None:
    """Remove a folder, in which threads of a failed write may still be writing."""
    if is_bucket(folder):
        return folder.rmtree(missing_ok=True)
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(SETTLE_SECONDS)
    shutil.rmtree(folder)


def read(folder, shapes, layouts, *, without: tuple[str, ...] = ()):
    """The state in a run's folder (its newest checkpoint) or in CHECKPOINTS/STEP.

    Fields named in `without` are not read; they are None in the state. Raises
    CheckpointError if there is no checkpoint, or it is damaged, of another network or of
    another step than its name.
    """
    folder, like = find_step_folder(folder), abstract(shapes, layouts)
    gaps = {
        name: jax.tree.map(lambda _: ocp.PLACEHOLDER, getattr(like, name))
        for name in without
    }

    def load():
        check_arrays(folder, like)
        check_step(folder, read_step(folder))
        wanted = like.replace(**gaps) if gaps else like
        state = ocp.load(folder, wanted, checkpointable_name="state")
        return state.replace(**dict.fromkeys(gaps)) if gaps else state

    return load_whole(load, folder, cure="use that one")


def read_parts(folder, like: dict, *, others: Mapping[str, str] | None = None) -> dict:
    """Some arrays of the state in a checkpoint anywhere; the rest stays on the disk.

    Args:
      like: "field" or "field/entry" -> abstract arrays with layouts.
      others: "field" or "field/entry" -> the place to look at where that one is missing.

    Returns:
      place in the checkpoint by place in `like`, and arrays in the latter's places. Raises
      CheckpointError if the checkpoint has others there.
    """
    folder = find_step_folder(folder)

    def load():
        check_step(folder, read_step(folder))
        there = ocp.metadata(folder, checkpointable_name="state").metadata
        shapes = shapes_by_name(there)
        places = {path: place_of(path, shapes, others or {}) for path in like}
        wanted = {places[path]: tree for path, tree in like.items()}
        inside = tuple(f"{place}/" for place in wanted)
        found = {k: v for k, v in shapes.items() if f"{k}/".startswith(inside)}
        check_shapes(folder, found, shapes_by_name(wanted))
        arrays = load_some(folder, there, named(wanted))
        loaded = jax.tree_util.tree_map_with_path(
            lambda path, _: arrays[path_name(path)], wanted
        )
        return places, {path: loaded[place] for path, place in places.items()}

    return load_whole(load, folder, cure="use that one")


def place_of(path: str, names: Iterable[str], others: Mapping[str, str]) -> str:
    """`path`, or the other place of it, if only that one is among `names` of arrays."""
    other = others.get(path, path)

    def is_there(place):
        return any(f"{name}/".startswith(f"{place}/") for name in names)

    return other if is_there(other) and not is_there(path) else path


def load_some(folder: pathlib.Path, there, wanted: dict) -> dict:
    """Arrays by name; `there` is the tree of all, `wanted` has abstract ones by name."""
    state = jax.tree_util.tree_map_with_path(
        lambda path, _: wanted.get(path_name(path), ocp.PLACEHOLDER), there
    )
    return named(ocp.load(folder, state, checkpointable_name="state"))


def read_step(folder: pathlib.Path) -> int:
    """The step that the state in a checkpoint says it is."""
    there = ocp.metadata(ready(folder), checkpointable_name="state").metadata
    step = np.empty((), np.int32)
    return int(load_some(folder, there, {"step": step})["step"])


def step_of(folder: pathlib.Path) -> int:
    """`read_step`; raises ValueError if the checkpoint cannot be read."""
    with quiet_orbax():
        try:
            return read_step(folder)
        except Exception as error:  # noqa: BLE001, Orbax raises many kinds
            raise ValueError(f"its step cannot be read: {reason(error)}") from None


def named(tree) -> dict:
    """ "a/b" -> leaf, of every leaf."""
    return {path_name(k): x for k, x in jax.tree_util.tree_leaves_with_path(tree)}


def find_step_folder(folder) -> pathlib.Path:
    """The newest step in a run's folder or in its checkpoints; a step's folder itself.

    Raises CheckpointError if `folder` is none of them.
    """
    folder = ready(folder if is_bucket(folder) else pathlib.Path(folder).absolute())
    for inner in (folder / mirror.CHECKPOINTS, folder):
        if steps := steps_in(inner):
            return inner / str(steps[-1])
    if not (folder / "state").is_dir():
        raise CheckpointError(
            f"{folder} holds no checkpoint; name a run's folder or its checkpoints/STEP"
        )
    return folder


def steps_in(folder: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending."""
    if is_bucket(folder):
        folders = [p.parent for p in folder.glob(f"*/{COMPLETE}")]
    else:
        folders = [p for p in folder.glob("*") if p.is_dir()]
    return sorted(int(p.name) for p in folders if integrity.is_step(p.name))


def unfinished_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of checkpoints whose write was interrupted."""
    if not is_bucket(folder):
        return [*folder.glob(f"*{UNFINISHED}")]
    whole = steps_in(folder)
    steps = (p for p in folder.glob("*") if integrity.is_step(p.name))
    return [p for p in steps if int(p.name) not in whole]


def ready(folder):
    """A folder of checkpoints, or one of them, which Orbax can read and write there."""
    if str(folder).startswith("s3:"):
        allow_s3()
    return folder


def abstract(shapes, layouts):
    """A tree of jax.ShapeDtypeStruct with shardings, which Orbax restores into."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        unbox(shapes),
        layouts,
    )


def check_step(folder: pathlib.Path, step):
    """Raise CheckpointError if the state is of another step than the folder's name."""
    if found := integrity.wrong_step(folder, step):
        raise CheckpointError(found)


def check_arrays(folder: pathlib.Path, like):
    """Raise CheckpointError if the names or shapes of arrays differ from those of `like`."""
    there = shapes_by_name(ocp.metadata(folder, checkpointable_name="state").metadata)
    if not there:
        raise ValueError("its list of arrays cannot be read")
    check_shapes(folder, there, shapes_by_name(like))


def check_shapes(folder: pathlib.Path, there: dict, here: dict):
    """Raise CheckpointError for the first array that only one has, or that differs."""
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
    return {name: tuple(x.shape) for name, x in named(tree).items()}


def load_whole(load, folder: pathlib.Path, *, cure: str):
    """`load()` of a checkpoint whose files are what was written.

    cure: what to do with the newest older checkpoint that is whole, which the error names.
    Raises CheckpointError if the checkpoint is damaged.
    """
    why = integrity.damage(folder)
    if not why:
        with quiet_orbax():
            try:
                return load()
            except CheckpointError:
                raise
            except Exception as error:  # noqa: BLE001, Orbax raises many kinds
                why = reason(error)
            time.sleep(SETTLE_SECONDS)
            gc.collect()  # what is left behind complains now, while it is silenced
    if not folder.exists():
        raise CheckpointError(
            f"checkpoint {folder} was removed while it was read, as a training removes its "
            "oldest; start again"
        )
    if integrity.is_step(folder.name):
        older = [n for n in steps_in(folder.parent) if n < int(folder.name)]
    else:
        older = []
    whole = integrity.newest_whole(folder.parent, older)
    if whole is None:
        rest = "no older one is known to be whole: move that folder away or use another"
    else:
        rest = f"step {whole} is whole: {cure}"
    text = f"checkpoint {folder} is damaged ({why}); {rest}"
    raise Damaged(text, why=why, whole=whole)
