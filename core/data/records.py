"""What a data set is to the pipeline: records that can be counted, read and named."""

from typing import Protocol

import numpy as np

from core.text import told


class Records(Protocol):
    """Picklable, so that worker processes get their own copy."""

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample; its shapes are the same for every record. May raise BadSample."""

    def name(self, index: int) -> str:
        """What a person would look for to repair the record: a path, an id."""


class BadSample(Exception):
    """A record that cannot be read; the message is a short reason."""


class TooManyBad(ValueError):
    """So much of a data set cannot be read that training on the rest would mislead."""


def explain(error: Exception) -> str:
    """A short reason for a failed record."""
    if isinstance(error, BadSample):
        return str(error)
    # An OSError's text carries the path, which the record's name already tells.
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or told(error)}"
