"""Opens a run's checkpoint, or published weights, for evaluations and exports."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from core.base.places import local_folder
from core.config import load_method
from core.method import Method
from core.parallel.layouts import shardings
from core.program import build_program
from core.runs import checkpoint, lineage, mirror, run_folder
from core.runs.start import read_frozen


class Opened(NamedTuple):
    """A method and a state of it that is not read yet.

    folder: of the run, or of the results for published weights. checkpoint: the folder of
    the step, or the path of the weights. step: 0 for published weights. read: mesh -> the
    state as far as `method.frozen_fields`, and lines that say where its arrays are from.
    lineage: the file of core/runs/lineage.py where evaluations and exports are recorded.
    send: writes what changed in `folder` to the bucket that it mirrors, if it does.
    """

    folder: pathlib.Path
    config: dict
    method: Method
    checkpoint: pathlib.Path
    step: int
    read: Callable[[jax.sharding.Mesh], tuple[Any, list[str]]]
    lineage: pathlib.Path
    send: Callable[[], None] = mirror.nothing


def open_run(workdir, step: int | None = None, *, wait_s: float = 0) -> Opened:
    """The run in `workdir` at a step, by default the newest.

    wait_s: seconds to wait for the checkpoint while a process trains in `workdir`.

    Raises ValueError if there is no run or no such checkpoint.
    """
    folder, fetch, send = mirror.copied(workdir)
    wait_for(folder, step, wait_s)
    fetch()
    config = run_folder.read_config(folder)
    path = find_checkpoint(mirror.within(folder, mirror.CHECKPOINTS), step)
    method = load_method(ConfigDict(tuples(config)))
    read = functools.partial(read_checkpoint, config, method, path)
    step, lines = int(path.name), folder / lineage.LINEAGE
    return Opened(folder, config, method, path, step, read, lines, send)


def open_weights(config: ConfigDict, weights, folder) -> Opened:
    """Weights in any format that `init_from` reads, for the networks of a config.

    folder: where results are written.
    """
    method = load_method(config)
    path = local_folder(weights, what="--weights")

    def read(mesh):
        plan = build_program(method, mesh, seed=config["seed"])
        state, _, report = read_frozen(method, plan, path)
        return state, report

    folder = local_folder(folder, what="--out")
    lines = folder / lineage.LINEAGE
    return Opened(folder, config.to_dict(), method, path, 0, read, lines)


def wait_for(folder: pathlib.Path, step: int | None, seconds: float):
    """Wait for the first checkpoint, or one of `step`, while a process trains in `folder`.

    Says that it waits. Returns after `seconds` at the latest, and at once where nothing can
    come: without a training, or if it is beyond `step`.
    """
    end, said = time.monotonic() + seconds, False
    while time.monotonic() < end and run_folder.is_training(folder):
        steps = checkpoint.steps_in(mirror.within(folder, mirror.CHECKPOINTS))
        if steps and (step is None or step <= steps[-1]):
            return
        if not said and jax.process_index() == 0:
            what = "its first checkpoint" if step is None else f"its step {step}"
            print(
                f"{mirror.shown(folder)} is training: waiting for {what}, up to {seconds:g} s "
                "(--wait_s)",
                flush=True,
            )
        said = True
        time.sleep(min(1, seconds))


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


def read_checkpoint(config: dict, method: Method, path: pathlib.Path, mesh):
    """(state, []): the fields of a checkpoint in `method.frozen_fields`, laid out on `mesh`.

    Other fields are not read and are None. `mesh` may differ from the run's.
    """
    key = jax.random.key(config["seed"])
    shapes = jax.eval_shape(method.init, key)
    layouts = shardings(mesh, shapes)
    needs = method.frozen_fields or shapes.__dataclass_fields__
    rest = tuple(name for name in shapes.__dataclass_fields__ if name not in needs)
    return checkpoint.read(path, shapes, layouts, without=rest), []
