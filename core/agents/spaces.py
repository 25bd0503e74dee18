"""Spaces: names, shapes and types of an agent's observations and actions."""

from dataclasses import dataclass

import numpy as np

from core.data.episodes.steps import FLAGS

RESERVED = ("reward", *FLAGS)


@dataclass(frozen=True)
class Space:
    """One named array of a step: image (uint8), integers below `classes`, or reals.

    Shape without batch and time. classes: 0 for arrays that are not discrete.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    classes: int = 0

    @property
    def is_image(self) -> bool:
        return self.dtype == "uint8" and len(self.shape) == 3

    @property
    def is_discrete(self) -> bool:
        return self.classes > 0

    @property
    def width(self) -> int:
        """Length of the array as a vector, one-hot if it is discrete."""
        return int(np.prod(self.shape)) * max(1, self.classes)


# Sorted by name. Hashable, so that a Flax module can hold it.
Spaces = tuple[tuple[str, Space], ...]


def sorted_spaces(spaces: dict[str, Space]) -> Spaces:
    """The pairs (name, space) in the order in which vectors concatenate them."""
    return tuple(sorted(spaces.items()))


def total_width(spaces: Spaces) -> int:
    """Length of the vector of all spaces: the A of actions [..., A]."""
    return sum(space.width for _, space in spaces)
