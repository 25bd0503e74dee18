"""Reads episodes of RLDS in tensorflow-datasets, such as Open X-Embodiment.

An example is an episode. A step has an observation, the action after it, and the reward of
that action.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from core.base.nested import flatten
from core.data.formats.lazy_images import image_files
from core.data.records import BadSample, RecordsWrapper
from core.data.steps import FLAGS, episode_flags, image_or_float, one_hot, shift_rewards
from core.data.tfds import Shards, is_rgb_feature, open_builder, step_features

NOT_KEPT = ("reward", "discount", *FLAGS)


@dataclasses.dataclass(frozen=True)
class Rlds(RecordsWrapper):
    """The episodes of a split as recordings (core/data/trajectories.py)."""

    inner: Shards
    about: ClassVar[dict] = {}

    def load(self, index):
        kinds = step_features(open_builder(self.inner.place).info.features)
        rows = [flatten(step) for step in self.inner[index]["steps"]]
        return translate_episode(flatten(kinds), rows)


def is_text(kind) -> bool:
    """Whether a feature holds text."""
    return kind.np_dtype.kind in "OSU"


def translate_episode(kinds: dict, rows: list[dict]) -> dict:
    """The steps of an episode by the names of core/data/steps.py.

    kinds: features by flat name. rows: one dictionary by flat name per step.
    observation/images/top becomes images_top; arrays beside the observations become
    log/NAME; parts of an action are concatenated in the order of their names.
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
            actions.append(action_vector(kind, values))
        elif inside == "timestamp":
            found["time"] = np.asarray(values, np.float64).reshape(len(rows))
        else:
            known = (
                image_files(values) if is_rgb_feature(kind) else image_or_float(values)
            )
            plain = inside.replace("/", "_")
            found[plain if inside != name else f"log/{plain}"] = known
    if not actions:
        raise BadSample("has no 'action'")
    found["action"] = np.concatenate(actions, -1)
    found["reward"] = shift_rewards([row.get("reward", 0.0) for row in rows])
    over = bool(rows[-1].get("is_terminal", False))
    return found | episode_flags(len(rows), terminal=over)


def action_vector(kind, values) -> np.ndarray:
    """A part of an action as float32 [T, n]; classes are one-hot."""
    if count := getattr(kind, "num_classes", None):
        return one_hot(values, count)
    return image_or_float(values).reshape(len(values), -1).astype(np.float32)
