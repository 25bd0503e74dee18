"""Pictures of a recording that are decoded once they are looked at."""

import numpy as np

from core.data.steps import Lazy
from core.data.video import open_video
from core.data.video_folder import read_image


def film(source, times) -> Lazy:
    """Those of a video, a path or the bytes of a file, that are on screen at `times`."""

    def decode(start, stop):
        with open_video(source) as video:
            return video.frames_at(times[start:stop])

    return Lazy(len(times), decode)


def images(files: list[bytes]) -> Lazy:
    """Those of image files."""

    def decode(start, stop):
        return np.stack([read_image(file) for file in files[start:stop]])

    return Lazy(len(files), decode)
