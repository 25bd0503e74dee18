"""Features of a frozen encoder in place of pictures, while trajectories are prepared."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from core.data.episodes.cameras import camera_names
from core.data.episodes.pictures import FEATURES, resized

PART = 32  # pictures that are encoded at once


def make_encode(still: Callable, weights: Any, *, size: int) -> Callable:
    """steps by name -> the same, with FEATURES + NAME float16 for each picture NAME.

    still: (weights, uint8 [PART, size, size, 3]) -> features [PART, N, D], pure. size: pixels
    per side that pictures are resized to.
    """
    run = jax.jit(still)

    def features(pictures) -> np.ndarray:
        found = []
        for i in range(0, len(pictures), PART):
            part = resized(np.asarray(pictures[i : i + PART]), size)
            padded = np.pad(part, [(0, PART - len(part)), (0, 0), (0, 0), (0, 0)])
            found.append(np.asarray(run(weights, padded), np.float16)[: len(part)])
        return np.concatenate(found)

    def encode(steps: dict) -> dict:
        seen = camera_names(steps)
        others = {name: x for name, x in steps.items() if name not in seen}
        return others | {FEATURES + name: features(steps[name]) for name in seen}

    return encode
