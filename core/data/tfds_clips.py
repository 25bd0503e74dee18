"""Clips out of a data set of tensorflow-datasets: encoded videos, or images."""

import dataclasses

import numpy as np

from core.data.clips import View, labelled, see, see_still
from core.data.records import Over
from core.data.tfds import Shards


@dataclasses.dataclass(frozen=True)
class ShardClips(Over):
    """Clips of the feature "video", the bytes of a file, or of "image", which stands still."""

    inner: Shards
    view: View

    def __post_init__(self):
        if not {"video", "image"} & set(self.inner.features):
            raise ValueError(
                f"{self} holds {', '.join(self.inner.features)}; expected video, the "
                "bytes of a file, or image"
            )

    def load(self, index, rng):
        """{"video": uint8 [T, H, W, 3]}, and "label": int32 where there is one."""
        example = self.inner[index]
        if "video" in example:
            video = see(bytes(example["video"]), self.view, rng)
        else:
            video = see_still(np.asarray(example["image"]), self.view, rng)
        label = int(example.get("label", -1))
        return labelled(video, label, self.view)

    def encoded(self, index) -> bytes:
        """The bytes of a video file."""
        return bytes(self.inner[index]["video"])
