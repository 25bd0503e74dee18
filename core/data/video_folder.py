"""Videos or images in a folder, or named by a list file, as records of clips."""

import dataclasses
import os

import cv2
import numpy as np

from core.data import file_lists
from core.data.clips import View, labelled, see, see_still
from core.data.records import BadSample
from core.data.video import SUFFIXES

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclasses.dataclass(frozen=True)
class VideoFolder:
    """Clips of the videos of a folder or list (core/data/file_lists.py), as `view` says.

    stills: the files are images, each a clip in which nothing moves.
    """

    folder: str
    view: View
    stills: bool = False
    root: str = dataclasses.field(init=False, repr=False)
    paths: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    labels: tuple[int, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        kind = (IMAGES, "images") if self.stills else (SUFFIXES, "videos")
        found = file_lists.find(self.folder, *kind)
        for name, value in zip(("root", "paths", "labels"), found, strict=True):
            object.__setattr__(self, name, value)

    def __str__(self):
        return str(self.folder)

    def __len__(self):
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def load(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """{"video": uint8 [T, H, W, 3]}, and "label": int32 where the list has them."""
        source = self.encoded(index)
        if self.stills:
            video = see_still(read_image(source), self.view, rng)
        else:
            video = see(source, self.view, rng)
        return labelled(video, self.labels[index] if self.labels else -1, self.view)

    def encoded(self, index: int) -> str | bytes:
        """Path of a file, or its bytes if it is not on this machine."""
        path = self.paths[index]
        if file_lists.is_url(path):
            return file_lists.read_url(path)
        return os.path.join(self.root, path)


def read_image(source) -> np.ndarray:
    """An image, upright as its camera says: a path or bytes -> uint8 [H, W, 3]."""
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read()
    image = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise BadSample("not an image, or a broken one")
    return image
