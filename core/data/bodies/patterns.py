"""Anti-aliased patterns of two colors on a plane, as functions of coordinates.

Each returns the share of the second color in 0..1 at coordinates x, y in periods of the
pattern. pixel: the side of a pixel in periods, over which edges are smoothed.
"""

import numpy as np


def stripes(x, y, pixel):
    """Straight stripes of equal width, across x."""
    return share_inside(np.abs(x - np.rint(x)) - 0.25, pixel)


def waves(x, y, pixel):
    """Stripes that swing from side to side."""
    return stripes(x + 0.22 * np.sin(np.pi * y), y, pixel)


def checks(x, y, pixel):
    """A board of squares, two to a period."""
    a, b = stripes(x, y, pixel), stripes(y, x, pixel)
    return a + b - 2 * a * b


def dots(x, y, pixel):
    """Discs on a square lattice."""
    return share_inside(np.hypot(x - np.rint(x), y - np.rint(y)) - 0.31, pixel)


def rings(x, y, pixel):
    """Concentric rings around the origin."""
    return stripes(np.hypot(x, y), y, pixel)


PATTERNS = (stripes, waves, checks, dots, rings)


def share_inside(distance, pixel):
    """The share of pixels inside an outline, of signed distances: negative is inside."""
    return (0.5 - distance / pixel).clip(0, 1)
