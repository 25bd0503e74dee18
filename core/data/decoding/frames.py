"""Decoded frames as pictures: square pixels, upright, RGB or planar."""

import numpy as np
from av.sidedata.sidedata import Type

from core.data.decoding.planar import rgb_to_planes
from core.data.records import BadSample

# FFmpeg's numbers for BT.601 in limited range; "unspecified" (2 and 0) is taken for it.
USUAL_COLORSPACES = (2, 5, 6)
USUAL_RANGES = (0, 1)


def frame_rgb(frame, aspect: float) -> np.ndarray:
    """A decoded frame with square pixels, upright: uint8 [H, W, 3].

    aspect: width / height of a stored pixel, by which the stored width is multiplied. Then
    the display matrix is applied: quarter turns and mirroring.
    """
    width = max(1, round(frame.width * aspect))
    # By default swscale starts a thread per core for each frame.
    image = frame.reformat(width=width, format="rgb24", threads=1).to_ndarray()
    swapped, down, right = turn_of(frame)
    image = image.swapaxes(0, 1) if swapped else image
    return image[::down, ::right]


def frame_planes(frame, aspect: float) -> tuple[np.ndarray, ...]:
    """`frame_rgb` as brightness and color differences (core/data/decoding/planar.py)."""
    if aspect != 1 or not is_plain(frame):
        return rgb_to_planes(frame_rgb(frame, aspect))
    sides = [(frame.height >> k, frame.width >> k) for k in (0, 1, 1)]
    return tuple(
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:h, :w]
        for plane, (h, w) in zip(frame.planes, sides, strict=True)
    )


def is_plain(frame) -> bool:
    """Whether the memory of a frame holds planes in the format of decoding/planar.py."""
    plain = frame.format.name == "yuv420p" and turn_of(frame) == (False, 1, 1)
    even = frame.height % 2 == frame.width % 2 == 0
    usual = frame.colorspace in USUAL_COLORSPACES and frame.color_range in USUAL_RANGES
    return plain and even and usual


def turn_of(frame) -> tuple[bool, int, int]:
    """The display matrix of a frame: (whether rows and columns are swapped, then the
    direction of rows and of columns, 1 or -1). Raises BadSample on other angles.
    """
    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return False, 1, 1
    # A point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d, *_ = np.frombuffer(found, np.int32).astype(float).tolist()
    swapped = abs(b) > abs(a)
    down, right, *rest = (b, c, a, d) if swapped else (d, a, b, c)
    if not down or not right or max(map(abs, rest)) > min(abs(down), abs(right)) / 50:
        raise BadSample("is turned by an angle other than 90, 180 or 270 degrees")
    return swapped, 1 if down > 0 else -1, 1 if right > 0 else -1
