"""Statistics of evaluated plans: intervals of success rates, rank correlation."""

import math

import numpy as np

Z = 1.959963984540054  # of a 95% interval


def wilson(successes: int, count: int, *, z: float = Z) -> tuple[float, float]:
    """(low, high): Wilson's 95% interval of a success rate (JASA 22, 1927, page 209)."""
    if not count:
        return 0.0, 1.0
    p, n = successes / count, count
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def spearman(a, b) -> float:
    """Rank correlation of two lists [n]; equal values share their mean rank.

    NaN if one of them is constant.
    """
    x, y = (mean_ranks(np.asarray(v, np.float64)) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / scale) if scale else math.nan


def mean_ranks(x: np.ndarray) -> np.ndarray:
    """Ranks 0 to n - 1 of values [n]; equal values have the mean of theirs."""
    _, group, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count) - 1
    return (last - (count - 1) / 2)[group]
