"""Clips of the videos or images in a folder or a list file."""

import dataclasses
import os

import cv2
import numpy as np

from core.data import file_lists
from core.data.clips import View, read_clip, still_clip, with_label
from core.data.records import BadSample
from core.data.video import SUFFIXES

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclasses.dataclass(frozen=True)
class VideoFolder:
    """One clip per file. `folder` is a folder or a list file (core/data/file_lists.py).

    stills: the files are images, and a clip repeats one. root: folder that `paths` are
    relative to. labels: one integer per path, or empty.
    """

    folder: str
    view: View
    stills: bool = False
    root: str = dataclasses.field(init=False, repr=False)
    paths: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    labels: tuple[int, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        kind = (IMAGES, "images") if self.stills else (SUFFIXES, "videos")
        found = file_lists.find_files(self.folder, *kind)
        for name, value in zip(("root", "paths", "labels"), found, strict=True):
            object.__setattr__(self, name, value)

    def __str__(self):
        return str(self.folder)

    def __len__(self):
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def listed_files(self) -> tuple[str, tuple[str, ...]]:
        """(folder, paths relative to it): core/data/fingerprint.py."""
        return self.root, self.paths

    def load(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """{"video": uint8 [T, size, size, 3]}, and "label": int32 [] if there are labels."""
        source = self.encoded(index)
        if self.stills:
            video = still_clip(read_image(source), self.view, rng)
        else:
            video = read_clip(source, self.view, rng)
        return with_label(video, self.labels[index] if self.labels else -1, self.view)

    def encoded(self, index: int) -> str | bytes:
        """The path of a file, or its bytes if the path is a URL."""
        path = self.paths[index]
        if file_lists.is_url(path):
            return file_lists.read_url(path)
        return os.path.join(self.root, path)


def read_image(source) -> np.ndarray:
    """Decode an image, a path or bytes, upright: uint8 [H, W, 3]. Raises BadSample."""
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read()
    image = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise BadSample("not an image that can be decoded")
    return image
