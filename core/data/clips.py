"""Choose when and where to look at a video or an image: as in arXiv 2404.08471."""

import dataclasses
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from core.data import planes
from core.data.records import BadSample
from core.data.video import open_video

cv2.setNumThreads(0)  # the pipeline's workers are the parallelism


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of a video: `frames` frames at `fps` a second, of size x size pixels.

    scale, aspect, flip: share of the area and width / height of the random crop, and
      whether half of the clips are mirrored.
    kind: "random" to train; "center" to evaluate: middle of the video, central square.
    crops: clips cut from a stretch of video that is decoded once; if more than one, they
      are the first axis of what is seen.
    planar: pictures as core/data/planes.py has them, [3 size / 2, size], not RGB.
    """

    frames: int = 16
    fps: float = 4.0
    size: int = 224
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.75, 1.35)
    flip: bool = True
    kind: str = "random"
    crops: int = 1
    planar: bool = False

    def __post_init__(self):
        for field in ("frames", "fps", "size", "crops"):
            value = getattr(self, field)
            if value <= 0:
                raise ValueError(f"{field} is {value}; it must be positive")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; expected 0 < low <= high <= 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect is {self.aspect}; expected 0 < low <= high")
        if self.planar and self.size % 2:
            raise ValueError(f"size is {self.size}; planar pictures have an even one")
        if self.kind not in ("random", "center"):
            raise ValueError(f"kind is {self.kind!r}; expected 'random' or 'center'")


def see(source, view: View, rng) -> np.ndarray:
    """A clip of a video, a path or the bytes of a file: uint8 [T, size, size, 3].

    A random stretch, or the middle; one crop and mirroring for all frames. Several crops
    of the same stretch, if the view has them: [crops, T, size, size, 3].
    """
    with open_video(source) as video:
        spare = max(0.0, video.duration - view.frames / view.fps)
        start = spare / 2 if view.kind == "center" else rng.uniform(0, spare)
        times = start + np.arange(view.frames) / view.fps
        if view.crops == 1:
            return video.frames_at(times, framing(view, rng), view.planar)
        seen = video.frames_at(times, framings(view, rng), view.planar)
        return np.moveaxis(seen, 1, 0)


def see_still(image, view: View, rng) -> np.ndarray:
    """An image [H, W, 3] as a clip, or several, in which nothing moves: as `see`."""
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise BadSample(f"an image is {image.dtype} {image.shape}, not uint8 [h, w, 3]")
    size = image.shape[:2]
    image = planes.planes_of(image) if view.planar else image
    if view.crops == 1:
        one = framing(view, rng)(*size)(image)
        return np.repeat(one[None], view.frames, 0)
    several = framings(view, rng)(*size)(image)
    return np.repeat(several[:, None], view.frames, 1)


def labelled(video, label: int, view: View) -> dict[str, np.ndarray]:
    """A sample of what was seen: {"video"}, and "label" where there is one, not below 0."""
    if label < 0:
        return {"video": video}
    shape = (view.crops,) if view.crops > 1 else ()
    return {"video": video, "label": np.full(shape, label, np.int32)}


def framing(view: View, rng):
    """(height, width) -> what crops, scales and mirrors frames of that size alike.

    In the centre, the same pixels as scaling the short side and cropping the square.
    """
    center = view.kind == "center"
    mirror = bool(not center and view.flip and rng.random() < 0.5)

    def make_view(height, width):
        if center:
            box = central_box(height, width, aspect=(1, 1))
        else:
            box = random_box(rng, height, width, scale=view.scale, aspect=view.aspect)
        see_one = look_at_planes if view.planar else look
        return partial(see_one, box=box, size=view.size, mirror=mirror)

    return make_view


def framings(view: View, rng):
    """The same for several views of every frame: [h, w, 3] -> [crops, size, size, 3]."""
    ways = [framing(view, rng) for _ in range(view.crops)]

    def make_views(height, width):
        views = [way(height, width) for way in ways]
        return lambda image: np.stack([see_one(image) for see_one in views])

    return make_views


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


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
    return cv2.flip(crop, 1) if mirror else crop


def look_at_planes(parts, *, box: Box, size: int, mirror=False) -> np.ndarray:
    """The same of a picture in planes, a planar one: [3 size / 2, size].

    Colours are taken from the box that lies on even pixels.
    """
    found = planes.empty(size)
    halved = Box(*(x // 2 for x in box[:2]), *(max(1, x // 2) for x in box[2:]))
    boxes, sizes = (box, halved, halved), (size, size // 2, size // 2)
    each = zip(planes.split(found), parts, boxes, sizes, strict=True)
    for place, part, where, side in each:
        place[:] = look(part, box=where, size=side, mirror=mirror)
    return found
