"""Several data sets as one, each drawn from by its weight."""

import bisect
import dataclasses
import itertools

from core.data.records import Records


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Records of all parts, one after the other; samples are drawn by `weights`."""

    parts: tuple[Records, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if len(self.parts) != len(self.weights) or not self.parts:
            raise ValueError(
                f"{len(self.parts)} data sets have {len(self.weights)} weights; "
                "each needs one"
            )
        for part, weight in zip(self.parts, self.weights, strict=True):
            if not weight > 0:
                raise ValueError(
                    f"the weight of {part} is {weight}; it must be positive"
                )
            if not len(part):
                raise ValueError(f"{part} has no records")

    def __str__(self):
        pairs = zip(self.weights, self.parts, strict=True)
        return " + ".join(f"{weight:g}*{part}" for weight, part in pairs)

    def __len__(self):
        return spans(self)[-1][1]

    def name(self, index):
        part, index = self.place(index)
        return f"{part}: {part.name(index)}"

    def load(self, index, rng=None):
        part, index = self.place(index)
        return part.load(index, rng)

    def place(self, index):
        """(the part that record `index` is of, its number there)."""
        ranges = spans(self)
        k = bisect.bisect_right(ranges, index, key=lambda span: span[1])
        return self.parts[k], index - ranges[k][0]


def spans(records) -> list[tuple[int, int]]:
    """First record and the one after the last of each part; of the whole, if it has none."""
    if not isinstance(records, Mixture):
        return [(0, len(records))]
    ends = list(itertools.accumulate(map(len, records.parts)))
    return list(zip([0, *ends], ends, strict=False))


def weights(records) -> tuple[float, ...]:
    """How often each part is drawn from."""
    return records.weights if isinstance(records, Mixture) else (1.0,)


def each(f, records: Records) -> Records:
    """f(records), or of every part of a mixture."""
    if not isinstance(records, Mixture):
        return f(records)
    return Mixture(tuple(map(f, records.parts)), records.weights)
