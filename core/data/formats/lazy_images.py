"""Images of a recording that are decoded when they are read."""

import cv2
import numpy as np

from core.base.unreadable import known_damage
from core.data.decoding.nearest_frames import Stamps, nearest_frames
from core.data.decoding.video import open_video
from core.data.episodes.steps import LazyImages
from core.data.records import BadSample
from core.data.video_folder import read_image

PNG, BIT_DEPTH = (
    b"\x89PNG",
    24,
)  # start of a PNG file, and where it states bits per number
TIFF = (b"II*\0", b"MM\0*")


def video_frames(source, stamps: Stamps) -> LazyImages:
    """The frames of a video that are nearest to the times of steps.

    source: a path or the bytes of a file.
    """
    return LazyImages(len(stamps.times), lambda part: read(source, stamps, part, rgb))


def depth_frames(source, stamps: Stamps, convert) -> LazyImages:
    """Like `video_frames` for a gray video of more than 8 bits.

    convert: numbers uint16 [H, W, 1] as stored -> depth.
    """

    def decode(part):
        return read(source, stamps, part, lambda video, x: convert(gray(x)))

    return LazyImages(len(stamps.times), decode, depth=True)


def read(source, stamps, part: slice, picture) -> np.ndarray:
    """The pictures of some steps. picture: (Reader, frame) -> array."""
    try:
        with open_video(source) as video:
            return nearest_frames(
                video, stamps, part, lambda frame: picture(video, frame)
            )
    except BadSample as error:
        text = str(error)
        if not isinstance(source, bytes) and (damage := known_damage(source)):
            text = f"{stamps.file} {damage}"
        named = text if stamps.file in text else f"{stamps.file}: {text}"
        raise BadSample(named) from None


def rgb(video, frame) -> np.ndarray:
    """A frame as uint8 [H, W, 3]. Raises BadSample if it is gray with more than 8 bits."""
    if is_deep_gray(frame):
        raise BadSample(
            f"has {frame.format.name} frames, which are no pictures; set is_depth_map of "
            "this feature in meta/info.json"
        )
    return video.picture(frame)


def gray(frame) -> np.ndarray:
    """The numbers of a gray frame as uint16 [H, W, 1]. Raises BadSample for other frames."""
    if not is_deep_gray(frame):
        raise BadSample(
            f"has {frame.format.name} frames; expected depth in gray of 10 to 16 bits"
        )
    kind = np.dtype(">u2" if frame.format.name.endswith("be") else "<u2")
    plane = frame.planes[0]
    rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
    return rows[:, : plane.width, None].astype(np.uint16)


def is_deep_gray(frame) -> bool:
    """Whether a frame has one number of more than 8 bits per pixel."""
    parts = frame.format.components
    return len(parts) == 1 and parts[0].bits > 8


def image_files(files: list[bytes]) -> LazyImages:
    """The images in the bytes of image files."""

    def decode(part):
        return np.stack([read_image(file) for file in files[part]])

    return LazyImages(len(files), decode)


def depth_files(files: list[bytes]) -> LazyImages:
    """The numbers of image files as they are, such as uint16 or float32 [T, H, W, 1]."""

    def decode(part):
        return np.stack([read_depth(file) for file in files[part]])

    return LazyImages(len(files), decode, depth=True)


def read_depth(file: bytes) -> np.ndarray:
    """The numbers of an image file of one channel, [H, W, 1]. Raises BadSample."""
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise BadSample("not an image that can be decoded")
    if image.ndim != 2:
        raise BadSample(f"image is {image.shape}; expected one number per pixel")
    return image[..., None]


def has_deep_numbers(file: bytes) -> bool:
    """Whether an image file has numbers of more than 8 bits."""
    if file.startswith(PNG):
        return file[BIT_DEPTH : BIT_DEPTH + 1] == b"\x10"
    return file.startswith(TIFF) and read_depth(file).dtype != np.uint8
