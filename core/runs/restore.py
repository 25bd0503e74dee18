"""Restores a run's config, method and state for evaluations and exports."""

import pathlib
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from core.base.places import local_folder
from core.config import load_method
from core.method import Method
from core.parallel.layouts import shardings
from core.runs import checkpoint, run_folder


class RunCheckpoint(NamedTuple):
    """A run and one of its checkpoints, whose state is not read yet.

    folder: of the run. checkpoint: folder of the step.
    """

    folder: pathlib.Path
    config: dict
    method: Method
    checkpoint: pathlib.Path
    step: int


def open_run(workdir, step: int | None = None) -> RunCheckpoint:
    """The run in `workdir` at a step, by default the newest.

    Raises ValueError if there is no run or no such checkpoint.
    """
    folder = local_folder(workdir, what="--workdir")
    config = run_folder.read_config(folder)
    path = find_checkpoint(folder / "checkpoints", step)
    return RunCheckpoint(
        folder, config, load_method(ConfigDict(tuples(config))), path, int(path.name)
    )


def tuples(value):
    """A config read from JSON with tuples for lists: it had tuples, which can be hashed."""
    if isinstance(value, dict):
        return {key: tuples(entry) for key, entry in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def find_checkpoint(folder: pathlib.Path, step: int | None) -> pathlib.Path:
    """The folder of `step`, or of the newest if None; raises ValueError if missing."""
    steps = checkpoint.steps_in(folder)
    if not steps:
        raise ValueError(f"{folder} holds no finished checkpoint yet")
    if step is not None and step not in steps:
        raise ValueError(f"{folder} holds no step {step}; it holds {steps}")
    return folder / str(steps[-1] if step is None else step)


def read_state(opened: RunCheckpoint, mesh):
    """The fields of the state in `method.frozen_fields`, laid out on `mesh`.

    Other fields are not read and are None. `mesh` may differ from the run's.
    """
    key = jax.random.key(opened.config["seed"])
    shapes = jax.eval_shape(opened.method.init, key)
    layouts = shardings(mesh, shapes)
    needs = opened.method.frozen_fields or shapes.__dataclass_fields__
    rest = tuple(name for name in shapes.__dataclass_fields__ if name not in needs)
    return checkpoint.read(opened.checkpoint, shapes, layouts, without=rest)
