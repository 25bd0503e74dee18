"""Several data sets as one; samples are drawn from each by weight."""

import bisect
import dataclasses
import itertools

from core.data.records import Records


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The concatenated records of `parts`; loading/sample_order.py draws by `weights`.

    weights: positive, one per part; they need not sum to 1. Raises ValueError otherwise,
    or if a part is empty.
    """

    parts: tuple[Records, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if len(self.parts) != len(self.weights) or not self.parts:
            raise ValueError(
                f"there are {len(self.weights)} weights for {len(self.parts)} data sets; "
                "expected one per data set"
            )
        for part, weight in zip(self.parts, self.weights, strict=True):
            if not weight > 0:
                raise ValueError(
                    f"the weight of {part} is {weight}; expected a positive number"
                )
            if not len(part):
                raise ValueError(f"{part} has no records")

    def __str__(self):
        pairs = zip(self.weights, self.parts, strict=True)
        return " + ".join(f"{weight:g}*{part}" for weight, part in pairs)

    def __len__(self):
        return part_ranges(self)[-1][1]

    def name(self, index):
        part, index = self.locate(index)
        return f"{part}: {part.name(index)}"

    def load(self, index, rng=None):
        part, index = self.locate(index)
        return part.load(index, rng)

    def locate(self, index):
        """Record number in the mixture -> (part, record number in that part)."""
        ranges = part_ranges(self)
        k = bisect.bisect_right(ranges, index, key=lambda span: span[1])
        return self.parts[k], index - ranges[k][0]


def part_ranges(records) -> list[tuple[int, int]]:
    """(start, stop) record numbers of each part; one range if it is no mixture."""
    if not isinstance(records, Mixture):
        return [(0, len(records))]
    ends = list(itertools.accumulate(map(len, records.parts)))
    return list(zip([0, *ends], ends, strict=False))


def part_weights(records) -> tuple[float, ...]:
    """The weight of each part; (1.0,) if it is no mixture."""
    return records.weights if isinstance(records, Mixture) else (1.0,)


def map_parts(f, records: Records) -> Records:
    """f(records), or a mixture of f(part) for every part."""
    if not isinstance(records, Mixture):
        return f(records)
    return Mixture(tuple(map(f, records.parts)), records.weights)
