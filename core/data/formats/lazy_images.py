"""Pictures of a recording that are decoded once they are looked at."""

import numpy as np

from core.data.steps import LazyImages
from core.data.video import open_video
from core.data.video_folder import read_image


def video_frames(source, times) -> LazyImages:
    """Those of a video, a path or the bytes of a file, that are on screen at `times`."""

    def decode(start, stop):
        with open_video(source) as video:
            return video.frames_at(times[start:stop])

    return LazyImages(len(times), decode)


def image_files(files: list[bytes]) -> LazyImages:
    """Those of image files."""

    def decode(start, stop):
        return np.stack([read_image(file) for file in files[start:stop]])

    return LazyImages(len(files), decode)
