"""The recorded action space: which part of an action vector is which action.

Recordings have it as about["actions"] (core/data/trajectories.py): a list in the order of
the vector, which is that of the names, as an agent has them (core/agents/spaces.py).

name      of the action
shape     of one action, without time
classes   of each number if it is discrete, and then one-hot in the vector; else 0
low, high bounds of reals, flat, in the recorded units; None where there is none: infinite,
          NaN, or beyond LARGE. Recorded numbers are never scaled.

The list is empty if nothing is known, as in data sets that were prepared before it existed.
"""

import math

import numpy as np

LARGE = (
    1e6  # a bound beyond it stands for none, such as MuJoCo's 1e10 or float32's 3e38
)


def discrete_part(name: str, shape, classes: int) -> dict:
    """An action of integers below `classes`."""
    return {"name": name, "shape": [*map(int, shape)], "classes": int(classes)}


def real_part(name: str, shape, low=None, high=None) -> dict:
    """An action of reals. low, high: bounds that broadcast to its shape, or None."""
    part = discrete_part(name, shape, 0)
    for key, bound in (("low", low), ("high", high)):
        full = np.broadcast_to(np.nan if bound is None else bound, tuple(shape))
        part[key] = [known_bound(x) for x in full.ravel().tolist()]
    return part


def known_bound(x: float) -> float | None:
    """A bound, or None if it is infinite, NaN or beyond LARGE."""
    return x if math.isfinite(x) and abs(x) <= LARGE else None


def part_width(part: dict) -> int:
    """Numbers of a part in the action vector."""
    return math.prod(part["shape"]) * max(1, part["classes"])


def is_discrete(parts) -> bool:
    """Whether any part of an action is discrete."""
    return any(part["classes"] for part in parts)


def describe_parts(parts) -> str:
    """The numbers of an action in words: "2 reals, 1 of 4 classes"."""
    words = []
    for part in parts:
        count = math.prod(part["shape"])
        words.append(
            f"{count} of {part['classes']} classes"
            if part["classes"]
            else f"{count} reals"
        )
    return ", ".join(words)
