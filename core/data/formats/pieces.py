"""Trajectories as launch.prepare writes them: pieces of episodes, in order.

Arrays are kept as they are, and array_record compresses them; large pictures are H.264.
"""

import dataclasses

import numpy as np

from core.data.formats.rlds import flat
from core.data.steps import Lazy
from core.data.tfds import Shards, builder
from core.data.video import open_video


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The pieces of a split as recordings."""

    shards: Shards

    def __str__(self):
        return str(self.shards)

    def __len__(self):
        return len(self.shards)

    def name(self, index):
        return self.shards.where(index)

    @property
    def about(self):
        return builder(self.shards.place).info.metadata["about"]

    def load(self, index):
        steps = dict(flat(self.shards[index]["steps"]))
        count = len(steps["is_first"])
        return {name: opened(x, count) for name, x in steps.items()}


def opened(x, count):
    """An array of an example, as it was before it was written."""
    if isinstance(x, bytes):
        return film(x, count)
    return np.array([word.decode() for word in x]) if isinstance(x, list) else x


def film(file: bytes, count: int) -> Lazy:
    """The pictures of an mp4 file of one frame a second."""

    def decode(start, stop):
        with open_video(file) as video:
            return video.frames_at(np.arange(start, stop) + 0.25)

    return Lazy(count, decode)
