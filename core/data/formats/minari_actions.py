"""Actions of gymnasium spaces in recordings -> action vectors and their parts."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from core.data.episodes.action_parts import real_part
from core.data.episodes.steps import one_hot

CLASSES = 65_536  # of a discrete action at most


class ActionPart(NamedTuple):
    """One action of a space.

    about: its parts of the vector (episodes/action_parts.py). read: actions of the whole
    space -> [T, *shape]. classes, start: of integers; no classes for reals.
    """

    name: str
    about: list[dict]
    read: Callable
    classes: int = 0
    start: int | np.ndarray = 0

    def vector(self, actions) -> np.ndarray:
        """float32 [T, n]; integers are one-hot. Raises BadSample for those out of range."""
        x = np.asarray(self.read(actions))
        if self.classes:
            x = one_hot(x.astype(np.int64) - self.start, self.classes)
        return x.astype(np.float32).reshape(len(x), -1)


def action_vector(space, actions) -> np.ndarray:
    """Actions of a gymnasium space as float32 [T, A], parts in the order of their names."""
    return np.concatenate([x.vector(actions) for x in action_parts(space)], -1)


def action_parts(space) -> list[ActionPart]:
    """The parts of a space in the order of their names.

    A dict's are called as its entries, others "action", "action/0", ...; choices with
    different numbers of classes are action_0, action_1, ... Raises ValueError for spaces
    that are no vector.
    """
    parts = [part for path, x in leaves(space) for part in parts_of(x, path)]
    if not parts:
        raise ValueError(f"the action space is {space}; expected one with numbers")
    return sorted(parts, key=lambda part: part.name)


def leaves(space, path=()):
    """[(keys and positions, space)] of all parts that are neither Dict nor Tuple."""
    kind = type(space).__name__
    if kind not in ("Dict", "Tuple"):
        return [(path, space)]
    inside = space.spaces
    pairs = inside.items() if kind == "Dict" else enumerate(inside)
    return [leaf for key, part in pairs for leaf in leaves(part, (*path, key))]


def parts_of(space, path) -> list[ActionPart]:
    """The parts of a space that is neither Dict nor Tuple."""
    root = () if path and isinstance(path[0], str) else ("action",)
    name, kind = "/".join(map(str, (*root, *path))), type(space).__name__

    def read(actions):
        for key in path:
            actions = actions[key]
        return np.asarray(actions)

    if kind == "Discrete":
        return choices(name, read, (), [space.n], [space.start])
    if kind == "MultiDiscrete":
        return choices(name, read, space.shape, space.nvec, space.start)
    if kind == "MultiBinary":
        twos = np.full(space.shape, 2)
        return choices(name, read, space.shape, twos, 0 * twos)
    if kind == "Box" and np.issubdtype(space.dtype, np.integer):
        counts = space.high.astype(float) - space.low.astype(float) + 1
        return choices(name, read, space.shape, counts, space.low)
    if kind == "Box":
        return [ActionPart(name, [real_part(space.shape, space.low, space.high)], read)]
    raise ValueError(
        f"{name!r} is an action of {kind}, which is no vector; expected Box, Discrete, "
        "MultiDiscrete, MultiBinary, or a Dict or Tuple of these"
    )


def choices(name, read, shape, counts, starts) -> list[ActionPart]:
    """Integers of so many classes each, as one part if these are equal."""
    counts = [int(n) for n in np.ravel(counts)]
    starts = np.ravel(starts)
    if counts and max(counts) > CLASSES:
        raise ValueError(
            f"{name!r} is a choice among {max(counts):,} integers; expected {CLASSES:,} or "
            "fewer"
        )
    if len(set(counts)) == 1:
        n, about = counts[0], [{"classes": counts[0]}] * len(counts)
        return [ActionPart(name, about, read, n, starts.reshape(shape))]
    return [
        ActionPart(
            f"{name}_{i}",
            [{"classes": n}],
            lambda actions, i=i: read(actions).reshape(len(read(actions)), -1)[:, i],
            n,
            start,
        )
        for i, (n, start) in enumerate(zip(counts, starts, strict=True))
    ]
