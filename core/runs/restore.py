"""A run's folder, opened again to judge or to publish what the run has learnt."""

import pathlib
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from core.config import load_method
from core.method import Method
from core.parallel.layouts import shardings
from core.runs import checkpoint, run_folder


class Opened(NamedTuple):
    """A run and the checkpoint of it that was asked for, not yet read."""

    folder: pathlib.Path
    config: dict
    method: Method
    checkpoint: pathlib.Path
    step: int


def open_run(workdir, step: int | None = None) -> Opened:
    """Find a checkpoint of a run, its newest by default."""
    folder = pathlib.Path(workdir).absolute()
    config = run_folder.read_config(folder / run_folder.CONFIG)
    path = find(folder / "checkpoints", step)
    return Opened(
        folder, config, load_method(ConfigDict(tuples(config))), path, int(path.name)
    )


def tuples(value):
    """JSON knows only lists; configs are written with tuples, which can be hashed."""
    if isinstance(value, dict):
        return {key: tuples(entry) for key, entry in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def find(folder: pathlib.Path, step: int | None) -> pathlib.Path:
    """The checkpoint of `step`, or the newest; a step that is not there is told."""
    steps = checkpoint.steps_in(folder)
    if not steps:
        raise ValueError(f"{folder} holds no finished checkpoint yet")
    if step is not None and step not in steps:
        raise ValueError(f"{folder} holds no step {step}; it holds {steps}")
    return folder / str(steps[-1] if step is None else step)


def read_state(opened: Opened, mesh):
    """What the method's evaluations and exports need of a checkpoint's state, laid out on
    `mesh`, which need not be the run's; None stands for the rest.
    """
    key = jax.random.key(opened.config["seed"])
    shapes = jax.eval_shape(opened.method.init, key)
    layouts = shardings(mesh, shapes)
    needs = opened.method.frozen_fields or shapes.__dataclass_fields__
    rest = tuple(name for name in shapes.__dataclass_fields__ if name not in needs)
    return checkpoint.read(opened.checkpoint, shapes, layouts, without=rest)
