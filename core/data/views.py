"""Clips and views of a video for evaluation: evenly spaced in time and along its long side."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from core.data.clips import Box, crop_image
from core.data.decoding.video import open_video
from core.data.records import BadSample
from core.data.video_folder import read_image

SHORT_SIDE = 256 / 224  # of a single view's video, over the crop (arXiv 2404.08471)


def read_views(
    source,
    *,
    frames: int,
    size: int,
    fps: float = 0.0,
    frame_step: int = 0,
    clips: int = 1,
    views: int = 1,
) -> np.ndarray:
    """Decode `clips` clips, each in `views` views: uint8 [views, clips, T, size, size, 3].

    Clips are evenly spaced over the video, the middle one or ones at its middle. One view
    is the central square of a video whose short side is 256 / 224 of `size`. Several are
    squares of the whole short side, evenly spaced along the long side (arXiv 2404.08471,
    appendix).

    Args:
      source: a path or the bytes of a file; or a list of pictures, one per frame, the bytes
        of files or uint8 [H, W, 3], which need `frame_step`.
      fps: frames of a clip per second. frame_step: instead, every how many stored frames
        one is taken; 0 goes by `fps`.

    Raises BadSample.
    """
    shape = {"frames": frames, "clips": clips}

    def make_views(height, width):
        boxes = view_boxes(height, width, size=size, views=views)
        return lambda image: np.stack([crop_view(image, box, size) for box in boxes])

    if isinstance(source, list):
        if not frame_step:
            raise BadSample("it has pictures without times; give --frame_step")
        rows = clip_times(len(source), step=frame_step, **shape)
        shown = show_pictures(source, np.floor(rows + 1e-6).astype(int), make_views)
    else:
        with open_video(source) as video:
            if frame_step and not video.rate:
                raise BadSample("its frame rate is unknown; leave out --frame_step")
            step = frame_step / video.rate if frame_step else 1 / fps
            times = clip_times(video.duration, step=step, **shape)
            if frame_step:  # of frames that are there
                times = np.floor(times * video.rate + 1e-6) / video.rate
            order = np.argsort(times, kind="stable")  # clips of short videos overlap
            shown = np.empty((len(times), views, size, size, 3), np.uint8)
            shown[order] = video.frames_at(times[order], make_views)
    shown = shown.reshape(clips, frames, views, size, size, 3)
    return np.moveaxis(shown, 2, 0)


def clip_times(duration: float, *, step: float, frames: int, clips: int) -> np.ndarray:
    """Times of the frames of all clips, one clip after another, in units of `duration`."""
    starts = clip_starts(duration, span=frames * step, clips=clips)
    return np.concatenate([start + np.arange(frames) * step for start in starts])


def clip_starts(duration: float, *, span: float, clips: int) -> np.ndarray:
    """Seconds at which clips begin: in the middle of equal spaces, within the video."""
    spare = max(0.0, duration - span)
    return spare * (np.arange(clips) + 0.5) / clips


def show_pictures(pictures: Sequence, rows, make_views: Callable) -> np.ndarray:
    """Views of the pictures of these rows, the last for rows beyond; raises BadSample."""
    rows = np.minimum(rows, len(pictures) - 1)
    shown, known = None, {}
    for row in np.unique(rows):
        image = pictures[row]
        image = read_image(bytes(image)) if np.ndim(image) == 0 else image
        shown = shown or make_views(*image.shape[:2])
        known[row] = shown(image)
    return np.stack([known[row] for row in rows])


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
