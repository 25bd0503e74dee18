"""Trajectories as records of the pipeline: windows of equal length of what was recorded.

What a step holds says core/data/steps.py.
"""

import dataclasses
from typing import Protocol

import numpy as np

from core.data.bodies.world import World
from core.data.records import BadSample, Over, held_from
from core.data.steps import check, cut, episode, joined, shifted


class Recordings(Protocol):
    """Whole episodes or pieces of them in order, by number; picklable.

    about: {"names": {array: of its numbers}, "units": {array: unit}, "rate": steps per
      second}, as far as told.
    """

    about: dict

    def __len__(self) -> int: ...

    def load(self, index: int) -> dict:
        """Its steps by name, as core/data/steps.py says. May raise BadSample."""

    def name(self, index: int) -> str:
        """What a person would look for to repair it."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Recordings from `start` up to `stop`."""

    recordings: Recordings
    start: int
    stop: int

    def __str__(self):
        return str(self.recordings)

    def __len__(self):
        return self.stop - self.start

    @property
    def about(self):
        return self.recordings.about

    def name(self, index):
        return self.recordings.name(self.start + index)

    def load(self, index):
        return self.recordings.load(self.start + index)


def split_of(recordings: Recordings, which: str) -> Recordings:
    """All but the last 20th to "train", that one to be "validation"; all for the empty word."""
    count = len(recordings)
    edge = held_from(count)
    if not which:
        return recordings
    if edge == count:
        raise ValueError(f"{recordings} has one recording; some must be held out")
    parts = {"train": (0, edge), "validation": (edge, count)}
    return Part(recordings, *parts[which])


@dataclasses.dataclass(frozen=True)
class Stretches(Over):
    """Windows of `length` steps, one a recording in each epoch, begun anywhere in it.

    One that outlasts its recording goes on in those after it, as a stream of episodes.
    """

    inner: Recordings
    length: int

    @property
    def about(self):
        return self.inner.about

    def load(self, index, rng=None):
        """One window: every array [length, ...]."""
        parts, left = [], self.length
        while left:
            steps = check(self.inner.load(index))
            count = len(steps["action"])
            begin = int(rng.integers(count)) if rng and not parts else 0
            parts.append(cut(steps, begin, begin + left))
            left -= min(left, count - begin)
            index = (index + 1) % len(self.inner)
        return shifted(joined(parts))


@dataclasses.dataclass(frozen=True)
class WorldWindows:
    """Clips of the embedded world as trajectories: images, pushes, no reward.

    "log/position" [T, K, 2], where the bodies are, is there to judge by.
    """

    world: World

    def __len__(self):
        return len(self.world)

    def name(self, index):
        return self.world.name(index)

    def load(self, index, rng=None):
        item = self.world.load(index)
        T = len(item["video"])
        steps = {
            "image": item["video"],
            "action": item["action"],
            "reward": np.zeros(T, np.float32),
            **episode(T, terminal=False),
            "log/position": item["position"],
        }
        return shifted(steps)


def stack_windows(records, indices) -> dict:
    """Those of several windows that can be read, side by side: arrays [n, length, ...].

    The same ones every time, though those of one record differ.
    """
    items, why = [], "none was asked for"
    for place, index in enumerate(map(int, indices)):
        try:
            items.append(records.load(index, np.random.default_rng(place)))
        except BadSample as error:
            why = f"{records.name(index)} {error}"
    if not items:
        raise ValueError(f"no window of {records} can be read: {why}")
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
