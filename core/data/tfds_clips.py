"""Clips of a data set of tensorflow-datasets that holds encoded videos, or images."""

import dataclasses

import numpy as np

from core.data.clips import View, read_clip, still_clip, with_label
from core.data.records import RecordsWrapper
from core.data.tfds import Shards


@dataclasses.dataclass(frozen=True)
class ShardClips(RecordsWrapper):
    """Clips of the feature "video", the bytes of a file, else of "image", without motion.

    Raises ValueError if there is neither.
    """

    inner: Shards
    view: View

    def __post_init__(self):
        if not {"video", "image"} & set(self.inner.features):
            raise ValueError(
                f"{self} has the features {', '.join(self.inner.features)}; expected "
                "'video', the bytes of a file, or 'image'"
            )

    def load(self, index, rng):
        """{"video": uint8 [T, size, size, 3]}, and "label": int32 [] if there is one."""
        example = self.inner[index]
        if "video" in example:
            video = read_clip(bytes(example["video"]), self.view, rng)
        else:
            video = still_clip(np.asarray(example["image"]), self.view, rng)
        label = int(example.get("label", -1))
        return with_label(video, label, self.view)

    def encoded(self, index) -> bytes:
        """The bytes of an example's video file."""
        return bytes(self.inner[index]["video"])
