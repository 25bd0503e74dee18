"""Clips of the videos or images in a folder or a list file."""

import contextlib
import dataclasses
import os

import cv2
import numpy as np

from core.base.text import printable_name
from core.base.unreadable import damage_of_head
from core.data.clips import View, still_clip, video_sample, with_label
from core.data.decoding.video import SUFFIXES
from core.data.files import file_lists, urls
from core.data.records import BadSample

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclasses.dataclass(frozen=True)
class VideoFolder:
    """One clip per file. `folder` is a folder or a list file (core/data/files/file_lists.py).

    stills: the files are images, and a clip repeats one. root: folder that `paths` are
    relative to. labels: one integer per path, or empty. names: one per path, to print and
    to store.
    """

    folder: str
    view: View
    stills: bool = False
    root: str = dataclasses.field(init=False, repr=False)
    paths: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    labels: tuple[int, ...] = dataclasses.field(init=False, repr=False)
    names: tuple[str, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        kind = (IMAGES, "images") if self.stills else (SUFFIXES, "videos")
        found = file_lists.find_files(self.folder, *kind)
        known = {"root": found.root, "paths": found.paths, "labels": found.labels}
        for name, value in (known | {"names": tuple(found.names())}).items():
            object.__setattr__(self, name, value)

    def __str__(self):
        return printable_name(str(self.folder))

    def __len__(self):
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def listed_files(self) -> tuple[str, tuple[str, ...]]:
        """(folder, paths relative to it): core/data/fingerprint.py."""
        return self.root, self.paths

    def load(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """{"video": uint8 [T, size, size, 3]}, "label": int32 [] if there are labels, and
        REPEATED of a video.
        """
        label = self.labels[index] if self.labels else -1
        with contextlib.ExitStack() as stack:
            source = self.encoded(index)
            if not isinstance(source, str):
                stack.enter_context(source)
            if not self.stills:
                return video_sample(source, self.view, rng, label)
            video = still_clip(read_image(source), self.view, rng)
            return with_label(video, label, self.view)

    def encoded(self, index: int):
        """The path of a file, or an open file if it lies at an address."""
        path = self.paths[index]
        if urls.is_url(path):
            return urls.open_url(path)
        return os.path.join(self.root, path)


def read_image(source) -> np.ndarray:
    """Decode an image, upright: uint8 [H, W, 3]. Raises BadSample.

    source: a path, the bytes of a file, or an open file.
    """
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            source = file.read()
    elif not isinstance(source, bytes):
        source = source.read()
    if damage := damage_of_head(source, "image"):
        raise BadSample(damage)
    image = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise BadSample("not an image that can be decoded")
    return image
