"""What a data set says of its action vectors: a list of parts in the order of the numbers.

{"classes": n}                  a choice, one-hot
{"low": [...], "high": [...]}   reals and the bounds of each in their own units; None where
                                there is none: infinite, NaN, or beyond LARGE
{"agent": n}                    reals that an agent chose in its own units, -1..1, beyond
                                which the environment has clipped them

Recordings have it as about["action"] (episodes/trajectories.py), if they know it. Recorded
numbers are never scaled.
"""

import itertools
import math

import numpy as np

LARGE = (
    1e6  # a bound beyond it stands for none, such as MuJoCo's 1e10 or float32's 3e38
)


def real_part(shape, low=None, high=None) -> dict:
    """The part of reals. low, high: bounds that broadcast to the shape, or None."""

    def known(bound):
        full = np.broadcast_to(np.nan if bound is None else bound, tuple(shape))
        return [known_bound(x) for x in full.ravel().tolist()]

    return {"low": known(low), "high": known(high)}


def known_bound(x: float) -> float | None:
    """A bound, or None if it is infinite, NaN or beyond LARGE."""
    return x if math.isfinite(x) and abs(x) <= LARGE else None


def layout_of(parts: list[dict]) -> list[int]:
    """The classes of each choice and 0 for each real, in the order of the vector."""
    layout = []
    for part in parts:
        reals = part["agent"] if "agent" in part else len(part.get("low", ()))
        layout += [part["classes"]] if "classes" in part else [0] * reals
    return layout


def text_of(layout: list[int]) -> str:
    """A layout for people: "2 reals, a choice of 3"."""
    words = []
    for classes, group in itertools.groupby(layout):
        count = len(list(group))
        choice = f"a choice of {classes}" if classes else f"{count} reals"
        words += [choice] * (count if classes else 1)
    return ", ".join(words)
