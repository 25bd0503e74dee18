"""Smooth edges of drawn bodies."""

import numpy as np


def share(depth, size: int) -> np.ndarray:
    """How much of a pixel is covered, whose center is `depth` sides within a body.

    size: pixels per side of the picture.
    """
    return np.clip(depth * size + 0.5, 0, 1)
