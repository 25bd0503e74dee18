"""Clips and views of a video for evaluation: evenly spaced in time and along its long side."""

import cv2
import numpy as np

from core.data.clips import Box, crop_image
from core.data.decoding.video import open_video

SHORT_SIDE = 256 / 224  # of a single view's video, over the crop (arXiv 2404.08471)


def read_views(
    source, *, frames: int, fps: float, size: int, clips: int = 1, views: int = 1
) -> np.ndarray:
    """Decode `clips` clips, each in `views` views: uint8 [views, clips, T, size, size, 3].

    Clips are evenly spaced over the video, the middle one or ones at its middle. One view
    is the central square of a video whose short side is 256 / 224 of `size`. Several are
    squares of the whole short side, evenly spaced along the long side (arXiv 2404.08471,
    appendix). source: a path or the bytes of a file. Raises BadSample.
    """
    with open_video(source) as video:
        starts = clip_starts(video.duration, span=frames / fps, clips=clips)
        times = np.concatenate([start + np.arange(frames) / fps for start in starts])
        order = np.argsort(times, kind="stable")  # clips of short videos overlap

        def make_views(height, width):
            boxes = view_boxes(height, width, size=size, views=views)
            return lambda image: np.stack(
                [crop_view(image, box, size) for box in boxes]
            )

        shown = np.empty((len(times), views, size, size, 3), np.uint8)
        shown[order] = video.frames_at(times[order], make_views)
    shown = shown.reshape(clips, frames, views, size, size, 3)
    return np.moveaxis(shown, 2, 0)


def clip_starts(duration: float, *, span: float, clips: int) -> np.ndarray:
    """Seconds at which clips begin: in the middle of equal spaces, within the video."""
    spare = max(0.0, duration - span)
    return spare * (np.arange(clips) + 0.5) / clips


def view_boxes(height: int, width: int, *, size: int, views: int) -> list[Box]:
    """The squares of the views, in pixels of the stored frame."""
    short, long = min(height, width), max(height, width)
    side = short if views > 1 else max(1, round(short * size / int(size * SHORT_SIDE)))
    places = np.linspace(0, long - side, views) if views > 1 else [(long - side) / 2]
    across = (short - side) // 2
    boxes = []
    for place in places:
        along = round(float(place))
        top, left = (across, along) if width >= height else (along, across)
        boxes.append(Box(top, left, side, side))
    return boxes


def crop_view(image, box: Box, size: int) -> np.ndarray:
    """The box of a frame, resized: area averaging where it shrinks, else bilinear."""
    if box.height <= size:
        return crop_image(image, box=box, size=size)
    crop = image[box.top : box.top + box.height, box.left : box.left + box.width]
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
