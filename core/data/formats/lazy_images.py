"""Images of a recording that are decoded when they are read."""

import numpy as np

from core.data.steps import LazyImages
from core.data.video import open_video
from core.data.video_folder import read_image


def video_frames(source, times) -> LazyImages:
    """The frames of a video on screen at rising `times` in seconds.

    source: a path or the bytes of a file.
    """

    def decode(start, stop):
        with open_video(source) as video:
            return video.frames_at(times[start:stop])

    return LazyImages(len(times), decode)


def image_files(files: list[bytes]) -> LazyImages:
    """The images in the bytes of image files."""

    def decode(start, stop):
        return np.stack([read_image(file) for file in files[start:stop]])

    return LazyImages(len(files), decode)
