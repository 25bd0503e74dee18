"""Clips of videos and images: which frames, and which crop (arXiv 2404.08471)."""

import dataclasses
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from core.data.decoding import planar
from core.data.decoding.video import open_video
from core.data.records import REPEATED, BadSample, RecordsWrapper

cv2.setNumThreads(0)  # the pipeline's workers are the parallelism


class LocalViews(NamedTuple):
    """Small random crops of the frames of a clip, cut while they are decoded once.

    count: of them. size: pixels of the square crop. scale, aspect, flip: as in `View`.
    """

    count: int
    size: int
    scale: tuple[float, float]
    aspect: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = True


@dataclasses.dataclass(frozen=True)
class View:
    """Which part of a video becomes a clip: uint8 [frames, size, size, 3].

    frames, fps: number of frames, and frames per second. A video that is too short
      repeats its last frame.
    size: pixels of the square clip; the crop is resized to it.
    scale: (low, high), the crop's share of the frame's area, drawn uniformly.
    aspect: (low, high), the crop's width / height, drawn log-uniformly.
    flip: whether half of the clips are mirrored.
    kind: "random" for training: random start, crop and mirroring, the same for all frames
      of a clip. "center" for evaluation: the middle of the video and its central square;
      scale, aspect and flip are not used.
    crops: clips from the same frames, which are decoded once, each with its own crop. If
      more than one, a clip is [crops, frames, size, size, 3].
    planar: a frame is [3 size / 2, size] as in decoding/planar.py, half the bytes of RGB;
      size must be even.
    local: small crops of the same frames besides, which `split_views` separates.

    Raises ValueError if a field is out of range.
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
    local: LocalViews | None = None

    def __post_init__(self):
        for field in ("frames", "fps", "size", "crops"):
            value = getattr(self, field)
            if value <= 0:
                raise ValueError(f"{field} is {value}; expected a positive number")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; expected 0 < low <= high <= 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect is {self.aspect}; expected 0 < low <= high")
        if self.planar and self.size % 2:
            raise ValueError(f"size is {self.size}; planar pictures need an even size")
        if self.kind not in ("random", "center"):
            raise ValueError(f"kind is {self.kind!r}; expected 'random' or 'center'")
        if self.local is not None:
            if self.crops > 1 or self.planar:
                raise ValueError(
                    f"crops is {self.crops} and planar {self.planar}; local views need 1 "
                    "and False"
                )
            self.of_local()  # raises

    def of_local(self) -> "View":
        """The view of which each local view is one."""
        assert self.local is not None
        count, size, scale, aspect, flip = self.local
        changes = {"crops": count, "size": size, "scale": scale, "aspect": aspect}
        return dataclasses.replace(
            self, **changes, flip=flip, kind="random", local=None
        )


def read_clip(source, view: View, rng) -> np.ndarray:
    """Decode one clip of a video.

    source: a path, the bytes of a file, or an open file. rng: draws start, crop and
    mirroring; may be None if view.kind is "center".
    Returns uint8 [T, size, size, 3], or as `View` says. Raises BadSample.
    """
    return read_distinct_clip(source, view, rng)[0]


def read_distinct_clip(source, view: View, rng) -> tuple[np.ndarray, int]:
    """(what `read_clip` returns, number of different frames of the video in it)."""
    with open_video(source) as video:
        spare = max(0.0, video.duration - view.frames / view.fps)
        start = spare / 2 if view.kind == "center" else rng.uniform(0, spare)
        times = start + np.arange(view.frames) / view.fps
        clip, distinct = video.distinct_frames_at(
            times, make_views(view, rng), view.planar
        )
        return clip if view.crops == 1 else np.moveaxis(clip, 1, 0), distinct


def still_clip(image, view: View, rng) -> np.ndarray:
    """A clip that repeats one image, uint8 [H, W, 3]; returns what `read_clip` does."""
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise BadSample(
            f"image is {image.dtype} {image.shape}; expected uint8 [h, w, 3]"
        )
    size = image.shape[:2]
    image = planar.rgb_to_planes(image) if view.planar else image
    shown = make_views(view, rng)(*size)(image)
    if view.crops == 1:
        return np.repeat(shown[None], view.frames, 0)
    return np.repeat(shown[:, None], view.frames, 1)


def video_sample(source, view: View, rng, label: int) -> dict:
    """What `with_label` returns of `read_clip`, and REPEATED."""
    clip, distinct = read_distinct_clip(source, view, rng)
    return with_label(clip, label, view) | {REPEATED: view.frames - distinct}


def with_label(video, label: int, view: View) -> dict[str, np.ndarray]:
    """{"video": video}, and "label" int32, [] or [crops], unless the label is negative.

    With local views, what `split_views` returns in place of "video".
    """
    found = {"video": video} if view.local is None else split_views(video, view)
    if label < 0:
        return found
    shape = (view.crops,) if view.crops > 1 else ()
    return found | {"label": np.full(shape, label, np.int32)}


def split_views(rows: np.ndarray, view: View) -> dict[str, np.ndarray]:
    """{"video": [T, size, size, 3], "local": [V, T, s, s, 3]} of rows [T, n] of pixels."""
    assert view.local is not None
    T, s = len(rows), view.local.size
    whole = rows[:, : 3 * view.size**2].reshape(T, view.size, view.size, 3)
    rest = rows[:, 3 * view.size**2 :].reshape(T, view.local.count, s, s, 3)
    return {"video": whole, "local": rest.swapaxes(0, 1)}


def cut_views(video: np.ndarray, view: View, rng) -> dict[str, np.ndarray]:
    """Global and local views of a clip [T, H, W, 3], as `split_views` returns them."""
    crops = [one(*video.shape[1:3]) for one in draw_view_crops(view, rng)]
    whole, *local = ([crop(frame) for frame in video] for crop in crops)
    return {"video": np.stack(whole), "local": np.array(local)}


@dataclasses.dataclass(frozen=True)
class CutViews(RecordsWrapper):
    """Views of whole clips, such as those of the embedded world: "video" and "local"."""

    view: View

    def load(self, index, rng):
        """{"video", "local"} as of `split_views`; labels are left out."""
        return cut_views(self.inner.load(index, rng)["video"], self.view, rng)


def make_views(view: View, rng):
    """(height, width) -> function of a frame: its crop, crops, or row of pixels.

    The last is of a view with local views: all crops one after another, uint8 [n], which
    `split_views` takes apart.
    """
    if view.local is None:
        return (make_crop if view.crops == 1 else make_crops)(view, rng)
    makers = draw_view_crops(view, rng)

    def make(height, width):
        views = [one(height, width) for one in makers]
        return lambda image: np.concatenate([crop(image).ravel() for crop in views])

    return make


def draw_view_crops(view: View, rng) -> list:
    """`make_crop` of the global view and of each local one."""
    part = view.of_local()
    return [make_crop(view, rng), *(make_crop(part, rng) for _ in range(part.crops))]


def make_crop(view: View, rng):
    """Draw a crop and mirroring: (height, width) -> function that crops a frame.

    The function crops, resizes and mirrors all frames of that size alike: RGB [H, W, 3] ->
    [size, size, 3], or planes -> [3 size / 2, size]. The central crop gives the same pixels
    as resizing the short side and then cropping the square.
    """
    center = view.kind == "center"
    mirror = bool(not center and view.flip and rng.random() < 0.5)

    def make_view(height, width):
        if center:
            box = central_box(height, width, aspect=(1, 1))
        else:
            box = random_box(rng, height, width, scale=view.scale, aspect=view.aspect)
        crop = crop_planar if view.planar else crop_image
        return partial(crop, box=box, size=view.size, mirror=mirror)

    return make_view


def make_crops(view: View, rng):
    """`view.crops` crops at once: the function gives [crops, size, size, 3] of a frame."""
    makers = [make_crop(view, rng) for _ in range(view.crops)]

    def make(height, width):
        views = [one(height, width) for one in makers]
        return lambda image: np.stack([crop(image) for crop in views])

    return make


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(rng, height, width, *, scale, aspect) -> Box:
    """A box with area share U(scale) and log-uniform aspect; the central one if 10 draws
    do not fit.
    """
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


def crop_image(image, *, box: Box, size: int, mirror=False) -> np.ndarray:
    """The box of an image [H, W, ...], bilinear without antialiasing: [size, size, ...]."""
    top, left, height, width = box
    crop = image[top : top + height, left : left + width]
    crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(crop, 1) if mirror else crop


def crop_planar(parts, *, box: Box, size: int, mirror=False) -> np.ndarray:
    """Crop and resize the planes of a picture: [3 size / 2, size], planar.

    parts: what planar.rgb_to_planes gives.

    The color planes use the box rounded to even pixels.
    """
    found = planar.empty_planar(size)
    halved = Box(*(x // 2 for x in box[:2]), *(max(1, x // 2) for x in box[2:]))
    boxes, sizes = (box, halved, halved), (size, size // 2, size // 2)
    planes = zip(planar.split_planes(found), parts, boxes, sizes, strict=True)
    for target, part, where, side in planes:
        target[:] = crop_image(part, box=where, size=side, mirror=mirror)
    return found
