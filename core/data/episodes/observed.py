"""Arrays of other people's observations -> pictures, numbers, or maps that no network reads.

Pictures are uint8 [T, H, W, C], numbers float32 [T, n, ...]. A map keeps its numbers and
their type: depth of 16 bits or in float32, and what looks like pictures but has no known
range.
"""

import numpy as np

from core.data.records import BadSample

SIDE = 16  # of a picture at least; smaller grids, such as maps of codes, are numbers
CHANNELS = 32  # of a picture at most, all frames of a stack together
NUMBERS = 4096  # of an array of two or more axes that is not a picture


def read_observation(values, low=None, high=None) -> tuple[np.ndarray, bool]:
    """(array [T, ...], whether it is a map) of an observation.

    low, high: bounds of the numbers if they are known. Numbers from 0 to 255 in the form of
    pictures are pictures, and so are reals from 0 to 1 if these are their bounds. Raises
    BadSample for values that are no numbers or exceed the bounds.
    """
    x = np.asarray(values)
    if x.dtype.kind not in "biuf":
        raise BadSample(f"has {x.dtype} values; expected numbers")
    if (pictures := channel_last(x)) is not None:
        scale = picture_scale(x.dtype, low, high)
        return (as_bytes(pictures, scale), False) if scale else (x, True)
    if is_wide(x):
        return x, True
    return x.astype(np.float32).reshape(len(x), *(x.shape[1:] or (1,))), False


def channel_last(x) -> np.ndarray | None:
    """Arrays in the form of pictures as [T, H, W, C]; None for other forms.

    Of [T, ...]: [H, W], [H, W, C], [C, H, W], or a stack of these, whose frames become
    channels. C is the axis that is smaller than both others.
    """
    shape = x.shape[1:]
    if len(shape) == 2 and min(shape) >= SIDE:
        return x[..., None]
    if len(shape) == 3:
        for axis, sides in ((2, shape[:2]), (0, shape[1:])):
            small = shape[axis] <= CHANNELS and shape[axis] < min(sides)
            if small and min(sides) >= SIDE:
                return np.moveaxis(x, 1 + axis, -1)
    if len(shape) == 4 and shape[0] * min(shape[1], shape[-1]) <= CHANNELS:
        frames = channel_last(x.reshape(-1, *shape[1:]))
        if frames is not None:
            frames = frames.reshape(*x.shape[:2], *frames.shape[1:])
            return np.moveaxis(frames, 1, 3).reshape(len(x), *frames.shape[2:4], -1)
    return None


def picture_scale(dtype, low, high) -> int:
    """255 for reals in 0..1, 1 for numbers in 0..255, 0 for other or unknown bounds."""
    if low is None or high is None:
        return int(dtype == np.uint8)
    low, high = np.unique(low), np.unique(high)
    if len(low) > 1 or len(high) > 1 or low[0] != 0:
        return 0
    return {255: 1, 1: 255 * (dtype.kind == "f")}.get(float(high[0]), 0)


def as_bytes(x, scale: int) -> np.ndarray:
    """Numbers in 0..255 / scale as uint8. Raises BadSample for others."""
    if x.dtype == np.uint8 and scale == 1:
        return x
    if not (x.min() >= 0 and x.max() * scale <= 255.001):
        raise BadSample(
            f"holds {x.min():g} to {x.max():g}; its space says 0 to {255 // scale}"
        )
    return np.clip(np.rint(x * float(scale)), 0, 255).astype(np.uint8)


def is_wide(x) -> bool:
    """Whether an array that is not a picture would be wrong or too large as numbers."""
    shape = x.shape[1:]
    wide = len(shape) >= 2 and sorted(shape)[-2] >= SIDE
    return wide and (len(shape) >= 3 or x.dtype == np.uint8 or np.prod(shape) > NUMBERS)
