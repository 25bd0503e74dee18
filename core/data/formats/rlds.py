"""Episodes as RLDS writes them with tensorflow-datasets, such as those of Open X-Embodiment.

An example holds the steps of an episode, and a step its observation, what was done after
seeing it, and the reward of doing so.
"""

import dataclasses

import numpy as np

from core.data.folder import read_image
from core.data.records import BadSample
from core.data.steps import FLAGS, Lazy, arrived, episode, numbers, one_hot
from core.data.tfds import Shards, builder, is_picture, steps_of

NOT_KEPT = ("reward", "discount", *FLAGS)


@dataclasses.dataclass(frozen=True)
class Rlds:
    """The episodes of a split as recordings."""

    shards: Shards
    about = {}

    def __str__(self):
        return str(self.shards)

    def __len__(self):
        return len(self.shards)

    def name(self, index):
        return self.shards.where(index)

    def load(self, index):
        kinds = steps_of(builder(self.shards.place).info.features)
        rows = [dict(flat(step)) for step in self.shards[index]["steps"]]
        return translated(dict(flat(kinds)), rows)


def flat(nested, before: str = ""):
    """(name, value) of all that is in nested dictionaries, names joined by slashes."""
    for name, value in nested.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{before}{name}/")
        else:
            yield before + name, value


def is_text(kind) -> bool:
    return kind.np_dtype.kind in "OSU"


def translated(kinds: dict, rows: list[dict]) -> dict:
    """The steps of an episode, by the names of this house.

    observation/images/top is images_top; what stands beside observations is kept to judge
    by; parts of an action follow each other in the order of their names.
    """
    if not rows:
        raise BadSample("has no steps")
    actions, found = [], {}
    for name, kind in sorted(kinds.items()):
        if name in NOT_KEPT:
            continue
        values = [row[name] for row in rows]
        inside = name.removeprefix("observation/")
        if is_text(kind):
            if "instruction" in name:
                words = np.array([value.decode() for value in values])
                found.setdefault("language", words)
        elif name.partition("/")[0] == "action":
            actions.append(vector(kind, values))
        elif inside == "timestamp":
            found["time"] = np.asarray(values, np.float64).reshape(len(rows))
        else:
            known = pictures(values) if is_picture(kind) else numbers(values)
            plain = inside.replace("/", "_")
            found[plain if inside != name else f"log/{plain}"] = known
    if not actions:
        raise BadSample("has no 'action'")
    found["action"] = np.concatenate(actions, -1)
    found["reward"] = arrived([row.get("reward", 0.0) for row in rows])
    over = bool(rows[-1].get("is_terminal", False))
    return found | episode(len(rows), terminal=over)


def vector(kind, values) -> np.ndarray:
    """A part of an action as float32 [T, n]."""
    if count := getattr(kind, "num_classes", None):
        return one_hot(values, count)
    return numbers(values).reshape(len(values), -1).astype(np.float32)


def pictures(files: list[bytes]) -> Lazy:
    def decode(start, stop):
        return np.stack([read_image(file) for file in files[start:stop]])

    return Lazy(len(files), decode)
