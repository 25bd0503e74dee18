"""The order in which records are read: shuffled in every epoch, mixed by weight."""

import dataclasses
import functools

import grain
import numpy as np

from core.data.mixture import part_ranges, part_weights

STREAM = 3  # random stream; core/data/loading/pipeline.py has the others
FEW = 10_000  # records below which EpochShuffle is used
ENDLESS = 2**62


def make_order(records, *, seed, shuffle):
    """An endless grain.MapDataset: position -> record number.

    Each part of a mixture has its own epochs; parts alternate in proportion to their
    weights. shuffle: a new order in every epoch; else records in order.
    """
    parts = []
    for k, (start, stop) in enumerate(part_ranges(records)):
        part = grain.MapDataset.range(start, stop)
        if shuffle and stop - start < FEW:
            part = grain.MapDataset.range(ENDLESS).map(
                EpochShuffle(start, stop, (seed, STREAM, k))
            )
        elif shuffle:
            # grain shuffles epoch e with seed + e, so seeds of runs must be far apart.
            part = part.shuffle(seed=(seed * 1_000_003 + k * 7919) % 2**32).repeat()
        else:
            part = part.repeat()
        parts.append(part)
    return grain.MapDataset.mix(parts, part_weights(records)) if parts[1:] else parts[0]


@dataclasses.dataclass(frozen=True)
class EpochShuffle:
    """Position -> record in start..stop - 1, in a new order in every epoch.

    For few records: there grain's own shuffle takes milliseconds per index.
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
    """A cached permutation of range(count)."""
    return np.random.default_rng(seed).permutation(count)
