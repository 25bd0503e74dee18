"""What an agent sees and does: names, shapes and kinds of observations and actions."""

from dataclasses import dataclass

import numpy as np

from core.data.steps import FLAGS

RESERVED = ("reward", *FLAGS)


@dataclass(frozen=True)
class Space:
    """One named array of a step: an image (uint8), whole numbers below `classes`, or reals."""

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
        """Numbers of the array as a vector, one-hot where it is discrete."""
        return int(np.prod(self.shape)) * max(1, self.classes)
