"""Clips of a data set of tensorflow-datasets that holds encoded videos, or images."""

import dataclasses

import numpy as np

from core.data.clips import View, still_clip, video_sample, with_label
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
        """{"video": uint8 [T, size, size, 3]}, "label": int32 [] if there is one, and
        REPEATED of a video.
        """
        example = self.inner[index]
        label = int(example.get("label", -1))
        if "video" in example:
            return video_sample(bytes(example["video"]), self.view, rng, label)
        video = still_clip(np.asarray(example["image"]), self.view, rng)
        return with_label(video, label, self.view)

    def encoded(self, index) -> bytes:
        """The bytes of an example's video file."""
        return bytes(self.inner[index]["video"])
