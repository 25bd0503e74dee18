"""Records: the interface of a data set to the pipeline, and errors of bad records."""

import contextlib
import dataclasses
from typing import Protocol

import numpy as np

from core.base.text import one_line

# Entry of a sample that the pipeline removes and counts: frames equal to the one before
# because the video has no other at that time.
REPEATED = "repeated_frames"
VALIDATION_ONE_IN = 20  # the last 1 / 20 validates where a data set has no splits


class Records(Protocol):
    """A data set of numbered records. Picklable: each worker process gets a copy."""

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample as arrays by name, of the same shapes for every record; and optionally
        REPEATED, int.

        rng: all randomness of the sample, such as crops. Raises BadSample if the record
        cannot be read; the pipeline counts any other exception as well.
        """
        ...

    def name(self, index: int) -> str:
        """The path or id by which a person finds the record."""
        ...


@dataclasses.dataclass(frozen=True)
class RecordsWrapper:
    """Base class of a data set made from another: same length and names as `inner`."""

    inner: object

    def __len__(self):
        return len(self.inner)

    def __str__(self):
        return str(self.inner)

    def name(self, index):
        return self.inner.name(index)


def validation_start(count: int) -> int:
    """Number of the first validation record: the last 1 / 20, at least one of several."""
    return count - max(1, count // VALIDATION_ONE_IN) if count > 1 else count


class BadSample(Exception):
    """Raised for a record that cannot be read; the message is a short reason.

    blamed: name of the recording that cannot be read, if it is another one into which the
    record goes on; else "".
    """

    blamed = ""


@contextlib.contextmanager
def blame(name: str):
    """A BadSample inside is the fault of the recording of this name."""
    try:
        yield
    except BadSample as error:
        error.blamed = error.blamed or name
        raise


class TooManyBad(ValueError):
    """Raised when a larger share of the data cannot be read than is allowed."""


def explain(error: Exception) -> str:
    """A short reason for a failed record: the message of a BadSample, or type and message."""
    if isinstance(error, BadSample):
        return str(error)
    # The text of an OSError has the path, which the record's name gives already.
    return (
        f"{type(error).__name__}: {getattr(error, 'strerror', None) or one_line(error)}"
    )
