"""Planar pictures (YUV 4:2:0): color at half the resolution, half the bytes of RGB.

A planar picture is uint8 [3 H / 2, W]: brightness in the upper H rows; below it, side by side,
the blue and the red color difference, [H / 2, W / 2] each. Most videos store this. Colors are
ITU-R BT.601 in limited range, the default of cameras and codecs.
"""

import cv2
import numpy as np


def split_planes(x):
    """Views of the planes of pictures [..., 3 H / 2, W]: brightness [..., H, W], and two color
    differences [..., H / 2, W / 2].
    """
    rows, W = x.shape[-2:]
    H = 2 * rows // 3
    return x[..., :H, :], x[..., H:, : W // 2], x[..., H:, W // 2 :]


def empty_planar(size: int) -> np.ndarray:
    """An uninitialized planar picture of size x size."""
    return np.empty((3 * size // 2, size), np.uint8)


def rgb_to_planes(image) -> tuple[np.ndarray, ...]:
    """RGB uint8 [H, W, 3] -> (brightness [H, W], two color differences [H / 2, W / 2]).

    An odd last row or column is left out.
    """
    H, W = (x // 2 * 2 for x in image.shape[:2])
    x = cv2.cvtColor(np.ascontiguousarray(image[:H, :W]), cv2.COLOR_RGB2YUV_I420)
    return x[:H], *x[H:].reshape(2, H // 2, W // 2)
