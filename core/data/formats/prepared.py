"""Reads trajectories that launch.prepare wrote: pieces of episodes, in order.

Arrays are stored unchanged, and array_record compresses them; large images are H.264.
"""

import dataclasses

import numpy as np

from core.base.nested import flatten
from core.data.decoding.nearest_frames import Stamps
from core.data.formats.lazy_images import video_frames
from core.data.records import RecordsWrapper
from core.data.tfds import Shards, open_builder


@dataclasses.dataclass(frozen=True)
class PreparedPieces(RecordsWrapper):
    """The pieces of a split as recordings (core/data/episodes/trajectories.py)."""

    inner: Shards

    @property
    def about(self):
        return open_builder(self.inner.place).info.metadata["about"]

    def load(self, index):
        steps = flatten(self.inner[index]["steps"])
        count = len(steps["is_first"])
        return {name: restore_array(x, count) for name, x in steps.items()}


def restore_array(x, count):
    """An array of an example as it was before writing. count: its steps."""
    if isinstance(x, bytes):
        stamps = Stamps(np.arange(count, dtype=float), interval=1.0)
        return video_frames(x, stamps)  # one frame per second
    return np.array([word.decode() for word in x]) if isinstance(x, list) else x
