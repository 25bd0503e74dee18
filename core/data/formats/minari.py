"""Reads data sets of Minari, with its own package."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from core.base.files import read_json
from core.base.places import expand_home
from core.base.text import one_line
from core.base.unreadable import known_damage
from core.data.episodes.observed import read_observation
from core.data.episodes.step_names import check_distinct, log_name, observation_name
from core.data.episodes.steps import episode_flags, shift_rewards
from core.data.formats.minari_actions import action_parts, action_vector
from core.data.records import BadSample, explain

DATA, METADATA, HDF5 = "data", "metadata.json", "main_data.hdf5"
TASK = ("mission", "instruction")  # in names of observations that hold the language
REMEDY = "it is cut, or its writer did not close it; download or record it again"


def is_minari(place) -> bool:
    """Whether a folder is a data set of Minari, whole or not."""
    data = expand_home(place) / DATA
    if not (data / METADATA).is_file():
        return False
    if (data / HDF5).is_file() or (data / "0").is_dir():
        return True
    try:
        return "action_space" in read_json(data / METADATA)
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True)
class Minari:
    """The episodes of a folder as recordings (core/data/episodes/trajectories.py).

    Raises ValueError if files are missing or cut, and for actions that are no vector.
    """

    folder: str
    count: int = dataclasses.field(init=False)

    def __post_init__(self):
        data = open_dataset(self.folder)
        action_parts(data.spec.action_space)
        if not data.total_episodes:
            raise ValueError(f"{self.folder} has no episodes")
        object.__setattr__(self, "count", int(data.total_episodes))

    def __str__(self):
        return self.folder

    def __len__(self):
        return self.count

    @property
    def about(self):
        parts = action_parts(open_dataset(self.folder).spec.action_space)
        return {"action": [about for part in parts for about in part.about]}

    def name(self, index):
        return f"{self.folder}: episode {index}"

    def load(self, index):
        """The steps of an episode; its last step has a zero action."""
        known, spec = self.episode(index), open_dataset(self.folder).spec
        count = len(known.rewards) + 1
        if count == 1:
            raise BadSample("has no steps")
        found = named_arrays(spec.observation_space, known.observations)
        actions = action_vector(spec.action_space, known.actions)
        # There is no action at the last step, and no reward at the first.
        found["action"] = np.append(actions, np.zeros_like(actions[:1]), 0)
        found["reward"] = shift_rewards(np.append(known.rewards, 0))
        return found | episode_flags(count, terminal=bool(known.terminations[-1]))

    def episode(self, index):
        """An episode as Minari has it. Raises BadSample."""
        data = open_dataset(self.folder)
        try:
            [known] = data.iterate_episodes([index])
            [about] = data.storage.get_episode_metadata([index])
        except (RuntimeError, LookupError, OSError, ValueError) as error:
            raise BadSample(f"cannot be read: {explain(error)}; {REMEDY}") from None
        steps = about.get("total_steps", len(known.rewards))
        if len(known.rewards) != steps:
            raise BadSample(
                f"has {len(known.rewards)} steps; its metadata says {steps}"
            )
        return known


def named_arrays(space, observations) -> dict:
    """Observations of a gymnasium space by the names of core/data/episodes/steps.py.

    Nested ones are joined by "_"; a single one is "image" or "state"; maps and texts become
    log/NAME, but the first text with a word of TASK in its name the language. Raises
    BadSample if two would have one name, or for values that are no numbers.
    """
    found, theirs = {}, []
    for path, part, x in leaves(space, observations):
        name = "/".join(path)
        if not isinstance(x, np.ndarray):
            is_task = any(word in name for word in TASK) and "language" not in found
            ours = "language" if is_task else log_name(name or "text")
            found[ours] = np.array([str(text) for text in x])
        elif x.size:
            bounds = (getattr(part, bound, None) for bound in ("low", "high"))
            try:
                x, is_map = read_observation(x, *bounds)
            except BadSample as error:
                raise BadSample(f"{name or 'the observation'!r} {error}") from None
            plain = name or ("image" if x.dtype == np.uint8 else "state")
            ours = log_name(plain) if is_map else observation_name(plain)
            found[ours] = x
        else:
            continue
        theirs.append((name, ours))
    try:
        check_distinct(theirs)
    except ValueError as error:
        raise BadSample(str(error)) from None
    return found


def leaves(space, x, path=()):
    """Yield (names, space, values) of all parts that are neither Dict nor Tuple."""
    if isinstance(x, Mapping):
        for name in sorted(x):
            yield from leaves(space[name], x[name], (*path, name))
    elif isinstance(x, tuple):
        for i, part in enumerate(x):
            yield from leaves(space[i], part, (*path, str(i)))
    else:
        yield path, space, x


@functools.lru_cache
def open_dataset(folder: str):
    """The cached minari.MinariDataset.

    Raises ValueError if minari is not installed, or a file is missing, a pointer, or cut.
    """
    try:
        import minari
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{folder} is a data set of Minari, which is not installed; run "
            "pip install -r requirements-minari.txt"
        ) from error
    data = expand_home(folder) / DATA
    if damage := known_damage(data / METADATA):
        raise ValueError(f"{data / METADATA} {damage}")
    about = read_json(data / METADATA)
    if about.get("data_format", "hdf5") == "hdf5":
        check_hdf5(data / HDF5)
    try:
        return minari.MinariDataset(str(data))
    except (KeyError, AssertionError, ValueError, OSError) as error:
        raise ValueError(f"{data} cannot be opened: {explain(error)}") from None


def check_hdf5(path):
    """Raise ValueError if a file of HDF5 is missing, a pointer, empty, or cut."""
    import h5py

    if damage := known_damage(path):
        raise ValueError(f"{path} {damage}")
    try:
        h5py.File(path, "r").close()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be opened ({one_line(error)}): {REMEDY}"
        ) from None
