"""Checks of a step against the spaces that its environment declares."""

import numpy as np

from core.agents.spaces import Space
from core.data.episodes.steps import FLAGS

ALWAYS = {"reward": Space(())} | dict.fromkeys(FLAGS, Space((), "bool"))


def check(step: dict, env) -> dict:
    """The declared arrays of a step of `env`, without a batch axis.

    Raises ValueError for the first one that is missing, of another dtype or shape, not
    finite, or not within its classes.
    """
    checked = {}
    for name, space in (env.observations | ALWAYS).items():
        expected = f"expected {space.dtype} {space.shape}"
        if name not in step:
            raise ValueError(f"{name} is missing; {expected}")
        x = checked[name] = np.asarray(step[name])
        if x.dtype != space.dtype or x.shape != space.shape:
            raise ValueError(f"{name} is {x.dtype} {x.shape}; {expected}")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            bad = x[~np.isfinite(x)][0]
            raise ValueError(f"{name} holds {bad}; {expected}, all finite")
        # -1 means that nothing was observed.
        if space.is_discrete and not ((x >= -1) & (x < space.classes)).all():
            found = f"{name} holds {x.min()} to {x.max()}"
            raise ValueError(f"{found}; expected -1 to {space.classes - 1}")
    return checked
