"""In which order records are read: shuffled by epoch, and mixed by weight."""

import dataclasses
import functools

import grain
import numpy as np

from core.data.mixture import spans, weights

STREAM = 3  # of randomness, beside those of core/data/pipeline.py
FEW = 10_000  # records
ENDLESS = 2**62


def make_order(records, *, seed, shuffle):
    """Record numbers without end, by position: every part goes through its epochs, and
    the parts of a mixture take turns by weight."""
    parts = []
    for k, (start, stop) in enumerate(spans(records)):
        part = grain.MapDataset.range(start, stop)
        if shuffle and stop - start < FEW:
            part = grain.MapDataset.range(ENDLESS).map(
                Order(start, stop, (seed, STREAM, k))
            )
        elif shuffle:
            # grain shuffles epoch e with seed + e, so neighbouring seeds must lie apart.
            part = part.shuffle(seed=(seed * 1_000_003 + k * 7919) % 2**32).repeat()
        else:
            part = part.repeat()
        parts.append(part)
    return grain.MapDataset.mix(parts, weights(records)) if parts[1:] else parts[0]


@dataclasses.dataclass(frozen=True)
class Order:
    """Position -> record from `start` up to `stop`, in another order every epoch.

    For few records, for which grain's own shuffle takes milliseconds an index.
    """

    start: int
    stop: int
    seed: tuple[int, ...]

    def __call__(self, position):
        epoch, place = divmod(position, self.stop - self.start)
        order = permutation(self.stop - self.start, (*self.seed, epoch))
        return self.start + int(order[place])


@functools.lru_cache(16)
def permutation(count, seed):
    return np.random.default_rng(seed).permutation(count)
