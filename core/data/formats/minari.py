"""Data sets of Minari: episodes of environments, read by its own package."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from core.data.records import BadSample, explain
from core.data.steps import episode_flags, image_or_float, one_hot

DATA = "data"
TASK = ("mission", "instruction")  # in the name of what tells it


def is_minari(place) -> bool:
    """Whether a folder is such a data set."""
    data = pathlib.Path(place).expanduser() / DATA
    return (data / "metadata.json").is_file() and (
        (data / "main_data.hdf5").is_file() or (data / "0").is_dir()
    )


@dataclasses.dataclass(frozen=True)
class Minari:
    """The episodes of such a folder as recordings."""

    folder: str
    count: int = dataclasses.field(init=False)
    about = {}

    def __post_init__(self):
        object.__setattr__(self, "count", open_dataset(self.folder).total_episodes)

    def __str__(self):
        return self.folder

    def __len__(self):
        return self.count

    def name(self, index):
        return f"{self.folder}: episode {index}"

    def load(self, index):
        data = open_dataset(self.folder)
        try:
            [known] = data.iterate_episodes([index])
        except (RuntimeError, LookupError, OSError, ValueError) as error:  # of HDF5
            raise BadSample(f"cannot be read: {explain(error)}") from None
        count = len(known.rewards) + 1
        actions = as_vector(data.spec.action_space, known.actions)
        found = dict(named_arrays(known.observations))
        # Nothing is done, and nothing was earned, where an episode has stopped and begins.
        found["action"] = np.append(actions, np.zeros_like(actions[:1]), 0)
        found["reward"] = np.append(0, known.rewards).astype(np.float32)
        return found | episode_flags(count, terminal=bool(known.terminations[-1]))


def named_arrays(observations, before: str = ""):
    """(name, array) of observations: those of one space alone are "image" or "state"."""
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
        tells_task = any(word in before for word in TASK)
        name = "language" if tells_task else f"log/{before or 'text'}"
        yield name, np.array([str(x) for x in observations])


def as_vector(space, actions) -> np.ndarray:
    """Actions of a space as float32 [T, A]; discrete ones one-hot, parts side by side."""
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
    raise BadSample(f"has actions of a {kind}, which is no vector")


@functools.lru_cache
def open_dataset(folder: str):
    try:
        import minari
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{folder} is a data set of Minari; to read it run "
            "pip install -r requirements-minari.txt"
        ) from error
    return minari.MinariDataset(str(pathlib.Path(folder).expanduser() / DATA))
