"""What a data set is to the pipeline: records that can be counted, read and named."""

import dataclasses
from typing import Protocol

import numpy as np

from core.base.text import one_line

HELD = 20  # one of so many is held out, where no split is told


class Records(Protocol):
    """Picklable, so that worker processes get their own copy."""

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample; its shapes are the same for every record. May raise BadSample."""

    def name(self, index: int) -> str:
        """What a person would look for to repair the record: a path, an id."""


@dataclasses.dataclass(frozen=True)
class Over:
    """What gives otherwise what another one holds: as much, called the same."""

    inner: object

    def __len__(self):
        return len(self.inner)

    def __str__(self):
        return str(self.inner)

    def name(self, index):
        return self.inner.name(index)


def held_from(count: int) -> int:
    """Of so many, the first of the last 20th, which is held out; of one, none is."""
    return count - max(1, count // HELD) if count > 1 else count


class BadSample(Exception):
    """A record that cannot be read; the message is a short reason."""


class TooManyBad(ValueError):
    """So much of a data set cannot be read that training on the rest would mislead."""


def explain(error: Exception) -> str:
    """A short reason for a failed record."""
    if isinstance(error, BadSample):
        return str(error)
    # An OSError's text carries the path, which the record's name already tells.
    return (
        f"{type(error).__name__}: {getattr(error, 'strerror', None) or one_line(error)}"
    )
