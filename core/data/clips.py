"""Choose when and where to look at a video or an image: as in arXiv 2404.08471."""

import dataclasses
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from core.data.records import BadSample
from core.data.video import open_video

cv2.setNumThreads(0)  # the pipeline's workers are the parallelism


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of a video: `frames` frames at `fps` a second, of size x size pixels.

    scale, aspect, flip: share of the area and width / height of the random crop, and
      whether half of the clips are mirrored.
    kind: "random" to train; "center" to evaluate: middle of the video, central square.
    """

    frames: int = 16
    fps: float = 4.0
    size: int = 224
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.75, 1.35)
    flip: bool = True
    kind: str = "random"

    def __post_init__(self):
        for field in ("frames", "fps", "size"):
            value = getattr(self, field)
            if value <= 0:
                raise ValueError(f"{field} is {value}; it must be positive")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; expected 0 < low <= high <= 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect is {self.aspect}; expected 0 < low <= high")
        if self.kind not in ("random", "center"):
            raise ValueError(f"kind is {self.kind!r}; expected 'random' or 'center'")


def see(source, view: View, rng) -> np.ndarray:
    """A clip of a video, a path or the bytes of a file: uint8 [T, size, size, 3]."""
    clip = {"frames": view.frames, "fps": view.fps, "size": view.size}
    if view.kind == "center":
        return center_clip(source, **clip)
    crop = {"scale": view.scale, "aspect": view.aspect, "flip": view.flip}
    return random_clip(source, rng, **clip, **crop)


def see_still(image, view: View, rng) -> np.ndarray:
    """An image [H, W, 3] as a clip in which nothing moves: uint8 [T, size, size, 3]."""
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise BadSample(f"an image is {image.dtype} {image.shape}, not uint8 [h, w, 3]")
    height, width, _ = image.shape
    if view.kind == "center":
        box, mirror = central_box(height, width, aspect=(1, 1)), False
    else:
        mirror = bool(view.flip and rng.random() < 0.5)
        box = random_box(rng, height, width, scale=view.scale, aspect=view.aspect)
    one = look(image, box=box, size=view.size, mirror=mirror)
    return np.repeat(one[None], view.frames, 0)


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


def random_clip(source, rng, *, frames, fps, size, scale, aspect, flip) -> np.ndarray:
    """A random stretch of a video, cropped at random: uint8 [T, size, size, 3].

    All frames share one crop of `scale` of the area and `aspect` (width / height), and
    one mirroring with probability 1/2 if `flip`.
    """
    with open_video(source) as video:
        start = rng.uniform(0, _spare_seconds(video, frames, fps))
        mirror = bool(flip and rng.random() < 0.5)

        def make_view(height, width):
            box = random_box(rng, height, width, scale=scale, aspect=aspect)
            return partial(look, box=box, size=size, mirror=mirror)

        return video.frames_at(start + np.arange(frames) / fps, make_view)


def center_clip(source, *, frames, fps, size) -> np.ndarray:
    """The middle of a video, cropped to its central square: uint8 [T, size, size, 3].

    The same pixels as scaling the short side to `size` and cropping the centre.
    """
    with open_video(source) as video:
        start = _spare_seconds(video, frames, fps) / 2

        def make_view(height, width):
            box = central_box(height, width, aspect=(1, 1))
            return partial(look, box=box, size=size)

        return video.frames_at(start + np.arange(frames) / fps, make_view)


def _spare_seconds(video, frames, fps):
    """How late a clip may start and still lie within the video."""
    return max(0.0, video.duration - frames / fps)


def random_box(rng, height, width, *, scale, aspect) -> Box:
    """A box with area share U(scale) and log-uniform aspect; central if none fits."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = np.exp(rng.uniform(*np.log(aspect)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    return central_box(height, width, aspect=aspect)


def central_box(height, width, *, aspect) -> Box:
    """The largest central box whose width / height lies within `aspect`."""
    w = min(width, round(height * aspect[1]))
    h = min(height, round(width / aspect[0]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def look(image, *, box: Box, size: int, mirror=False) -> np.ndarray:
    """The box of an image, bilinear and not antialiased: [size, size, 3]."""
    top, left, height, width = box
    crop = image[top : top + height, left : left + width]
    crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
    return crop[:, ::-1] if mirror else crop
