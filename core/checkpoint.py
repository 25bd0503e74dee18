"""Checkpoints of state and source cursor through Orbax; the only file that imports it."""

import contextlib
import pathlib

import jax
from orbax.checkpoint import v1 as ocp

from core.sharding import unbox


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read, told in one sentence."""


@contextlib.contextmanager
def told(what: str):
    """Turn storage failures inside into one sentence that begins with `what`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax raises many kinds, some wrapped in groups
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{what}: {reason}") from error


class Checkpoints:
    """The numbered checkpoints of one run, written in the background, finished atomically.

    A save that is cut off leaves a temporary folder that the next start removes; the
    finished ones before it stay whole.
    """

    def __init__(self, workdir, *, save_steps: int, keep: int):
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        policies, training = ocp.training.save_decision_policies, ocp.training
        with told(f"checkpoint folder {self.folder} cannot be opened"):
            self._inner = training.Checkpointer(
                self.folder,
                cleanup_tmp_directories=True,
                save_decision_policy=policies.FixedIntervalPolicy(save_steps),
                preservation_policy=training.preservation_policies.LatestN(keep),
            )

    def latest(self) -> int | None:
        """The step of the newest finished checkpoint, None when there is none."""
        found = self._inner.latest
        return None if found is None else found.step

    def save(self, step: int, state, cursor: dict, *, force: bool = False):
        """Start writing when the interval says so, or at once; returns before it is done."""
        if force and step == self.latest():
            return
        if not (force or self._inner.should_save(step)):
            return
        with told(self._cannot_write(step)):
            self._inner.save_checkpointables_async(
                step, {"state": state, "source": cursor}, force=force
            )

    def restore(self, shapes, layouts, step: int | None = None):
        """(state, cursor) of a step, placed by `layouts` on whatever mesh they name."""
        step = self.latest() if step is None else step
        like = abstract(shapes, layouts)
        with told(f"checkpoint {self.folder / str(step)} cannot be read"):
            found = self._inner.load_checkpointables(
                step, {"state": like, "source": None}
            )
        return found["state"], found["source"]

    def wait(self):
        """Block until what was started is on disk; a failed write is told here."""
        with told(self._cannot_write(None)):
            self._inner.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Wait for the last write and release the folder."""
        try:
            self.wait()
        finally:
            self._inner.close()

    def _cannot_write(self, step):
        which = (
            f"checkpoint {self.folder / str(step)}" if step else "the last checkpoint"
        )
        kept = [int(p.name) for p in self.folder.glob("*") if p.name.isdigit()]
        left = f"step {max(kept)} is intact" if kept else "there is none before it"
        return f"{which} cannot be written ({left})"


def abstract(shapes, layouts):
    """Shapes and layouts as one tree that Orbax restores into."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        unbox(shapes),
        layouts,
    )


def read(folder, shapes, layouts):
    """The state of a checkpoint anywhere: a run's folder (its newest) or one step's."""
    folder = pathlib.Path(folder).absolute()
    inner = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = [int(p.name) for p in inner.glob("*") if p.name.isdigit()]
    inner = inner / str(max(steps)) if steps else inner
    with told(f"checkpoint {inner} cannot be read"):
        if not inner.is_dir():
            raise FileNotFoundError("there is no such folder")
        return ocp.load(inner, abstract(shapes, layouts), checkpointable_name="state")
