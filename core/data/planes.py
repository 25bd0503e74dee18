"""Pictures with colour at half the resolution of brightness: half the bytes of RGB.

A planar picture is uint8 [3 H / 2, W]: brightness in the upper H rows, and below it, side by
side, its two colour differences, [H / 2, W / 2] each. That is what videos hold anyhow; the
colours are those of ITU-R BT.601 in their limited range, the default of cameras and codecs.
"""

import cv2
import numpy as np


def split(x):
    """Brightness [..., H, W] and colour differences [..., H / 2, W / 2] of such pictures."""
    rows, W = x.shape[-2:]
    H = 2 * rows // 3
    return x[..., :H, :], x[..., H:, : W // 2], x[..., H:, W // 2 :]


def empty(size: int) -> np.ndarray:
    """A planar picture of size x size, not filled yet."""
    return np.empty((3 * size // 2, size), np.uint8)


def planes_of(image) -> tuple[np.ndarray, ...]:
    """RGB [H, W, 3] as brightness and colour differences; an odd last row or column is left
    out."""
    H, W = (x // 2 * 2 for x in image.shape[:2])
    x = cv2.cvtColor(np.ascontiguousarray(image[:H, :W]), cv2.COLOR_RGB2YUV_I420)
    return x[:H], *x[H:].reshape(2, H // 2, W // 2)
