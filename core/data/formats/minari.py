"""Reads data sets of Minari, with its own package."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from core.base.files import expand
from core.data.records import BadSample, explain
from core.data.steps import episode_flags, image_or_float, one_hot

DATA = "data"
TASK = ("mission", "instruction")  # in names of observations that hold the language


def is_minari(place) -> bool:
    """Whether a folder is a data set of Minari."""
    data = expand(place) / DATA
    return (data / "metadata.json").is_file() and (
        (data / "main_data.hdf5").is_file() or (data / "0").is_dir()
    )


@dataclasses.dataclass(frozen=True)
class Minari:
    """The episodes of a folder as recordings (core/data/trajectories.py)."""

    folder: str
    count: int = dataclasses.field(init=False)
    about: ClassVar[dict] = {}

    def __post_init__(self):
        object.__setattr__(self, "count", open_dataset(self.folder).total_episodes)

    def __str__(self):
        return self.folder

    def __len__(self):
        return self.count

    def name(self, index):
        return f"{self.folder}: episode {index}"

    def load(self, index):
        """The steps of an episode; its last step has a zero action."""
        data = open_dataset(self.folder)
        try:
            [known] = data.iterate_episodes([index])
        except (RuntimeError, LookupError, OSError, ValueError) as error:  # from HDF5
            raise BadSample(f"cannot be read: {explain(error)}") from None
        count = len(known.rewards) + 1
        actions = as_vector(data.spec.action_space, known.actions)
        found = dict(named_arrays(known.observations))
        # There is no action at the last step, and no reward at the first.
        found["action"] = np.append(actions, np.zeros_like(actions[:1]), 0)
        found["reward"] = np.append(0, known.rewards).astype(np.float32)
        return found | episode_flags(count, terminal=bool(known.terminations[-1]))


def named_arrays(observations, before: str = ""):
    """Yield (name, array) of observations, flat: a single space is "image" or "state".

    before: prefix of the names.
    """
    if isinstance(observations, Mapping):
        for name, x in observations.items():
            yield from named_arrays(x, f"{before}_{name}" if before else name)
    elif isinstance(observations, tuple):
        for i, x in enumerate(observations):
            yield from named_arrays(x, f"{before}_{i}" if before else str(i))
    elif isinstance(observations, np.ndarray):
        x = image_or_float(observations)
        yield before or ("image" if x.dtype == np.uint8 else "state"), x
    else:
        is_task = any(word in before for word in TASK)
        name = "language" if is_task else f"log/{before or 'text'}"
        yield name, np.array([str(x) for x in observations])


def as_vector(space, actions) -> np.ndarray:
    """Actions of a gymnasium space as float32 [T, A]: discrete ones one-hot, parts
    concatenated. Raises BadSample for other spaces.
    """
    kind = type(space).__name__
    if kind in ("Dict", "Tuple"):
        keys = sorted(actions) if kind == "Dict" else range(len(actions))
        return np.concatenate([as_vector(space[k], actions[k]) for k in keys], -1)
    if kind == "Discrete":
        return one_hot(np.asarray(actions) - space.start, int(space.n))
    if kind == "MultiDiscrete":
        columns = np.asarray(actions).T
        parts = zip(columns, space.nvec.tolist(), strict=True)
        return np.concatenate([one_hot(x, n) for x, n in parts], -1)
    if kind in ("Box", "MultiBinary"):
        return np.asarray(actions, np.float32).reshape(len(actions), -1)
    raise BadSample(f"has actions of a {kind} space, which is not a vector")


@functools.lru_cache
def open_dataset(folder: str):
    """The cached minari.MinariDataset. Raises ValueError if minari is not installed."""
    try:
        import minari
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{folder} is a data set of Minari, which is not installed; run "
            "pip install -r requirements-minari.txt"
        ) from error
    return minari.MinariDataset(str(pathlib.Path(folder).expanduser() / DATA))
