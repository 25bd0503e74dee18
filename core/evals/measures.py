"""Measures of predictions, weighted per clip so that clips can be resampled.

Each takes weights [W, n], predictions [n, K] and truth [n, K], and returns [W]. A row whose
truth is NaN does not count.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def r2(weights, predicted, true):
    """Coefficient of determination, mean over the K columns; at most 1, not clipped.

    Columns without variance are left out; NaN if none is left.
    """
    known = np.isfinite(true)
    y, p = (np.where(known, x, 0).astype(np.float64) for x in (true, predicted))
    middle = y.sum(0) / np.maximum(known.sum(0), 1)  # for precision alone
    y, p = (y - middle) * known, (p - middle) * known
    count, total = weights @ known, weights @ y
    spread = weights @ y**2 - total**2 / np.maximum(count, 1)
    error = weights @ (y - p) ** 2
    usable = spread > 1e-12 * np.maximum(count, 1)
    scores = 1 - error / np.where(usable, spread, np.nan)
    return mean_of_known(scores)


def auc(weights, predicted, true):
    """Area under the ROC curve of scores for 0/1 truth, mean over columns; ties count half.

    NaN where one of the two is absent.
    """
    columns = zip(np.asarray(predicted).T, np.asarray(true).T, strict=True)
    return mean_of_known(np.stack([_auc(weights, p, y) for p, y in columns], -1))


def _auc(weights, scores, true):
    known = np.isfinite(true)
    weights, scores, true = weights[:, known], scores[known], true[known]
    if not known.any():
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    starts = np.unique(scores[order], return_index=True)[1]  # of runs of equal scores
    w, y = weights[:, order], true[order]
    won, lost = (np.add.reduceat(w * (y == v), starts, 1) for v in (1, 0))
    below = np.cumsum(lost, 1) - lost / 2
    pairs = won.sum(1) * lost.sum(1)
    return (won * below).sum(1) / np.where(pairs > 0, pairs, np.nan)


def accuracy(weights, predicted, true):
    """Share of rows whose largest prediction is at the largest truth (one-hot)."""
    known = np.isfinite(true).all(1)
    right = known & (np.argmax(predicted, 1) == np.argmax(np.nan_to_num(true), 1))
    count = weights @ known
    return weights @ right / np.where(count > 0, count, np.nan)


def mean(weights, predicted, true):
    """Mean of numbers that are scores already, whatever the truth."""
    return weights @ predicted.mean(1) / weights.sum(1)


def mean_of_known(x):
    """Mean of the finite values over the last axis; NaN if there are none."""
    known = np.isfinite(x)
    count = known.sum(-1)
    total = np.where(known, x, 0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


MEASURES: Mapping[str, Callable[..., np.ndarray]] = {
    "r2": r2,
    "auc": auc,
    "accuracy": accuracy,
    "mean": mean,
}


def measured(name: str, predicted, true, groups=None) -> dict[str, Any]:
    """A measure with its interval, of the predictions of each seed.

    Args:
      name: in MEASURES. predicted: [seeds, n, K]. true: [n, K].
      groups: [n], of clips that are drawn together, such as those of an episode; each
        clip by itself if None.

    Returns:
      {name: mean over seeds, "interval": 95% percentiles over resampled clips or groups,
      "seeds": one value each}.
    """
    seeds = whole(name, predicted, true)
    interval = middle_of(drawn(name, predicted, true, groups))
    return {name: float(np.mean(seeds)), "interval": interval, "seeds": seeds}


def difference(name: str, first, second, true, groups=None) -> dict[str, Any]:
    """`measured` of the first predictions minus that of the second, draw by draw.

    Both are scored on the same resampled clips or groups, so that what makes some of them
    harder than others for both does not widen the interval. Arguments as of `measured`.
    """
    gap = np.mean(whole(name, first, true)) - np.mean(whole(name, second, true))
    both = (drawn(name, predicted, true, groups) for predicted in (first, second))
    return {name: float(gap), "interval": middle_of(np.subtract(*both))}


def whole(name: str, predicted, true) -> list[float]:
    """The measure of each seed's predictions on all clips."""
    ones = np.ones((1, len(true)))
    return [float(MEASURES[name](ones, p, true)[0]) for p in predicted]


def drawn(name: str, predicted, true, groups) -> np.ndarray:
    """The measure, mean over seeds, on each draw of clips or groups: [draws]."""
    weights = resampled(np.arange(len(true)) if groups is None else groups)
    return np.mean([MEASURES[name](weights, p, true) for p in predicted], 0)


def middle_of(values: np.ndarray) -> list[float]:
    """[low, high] of the middle 95% of the finite values; NaN if there are none."""
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (2.5, 97.5)) if len(values) else (np.nan, np.nan)
    return [float(low), float(high)]


def resampled(groups, *, seed: int = 0, draws: int = 1000) -> np.ndarray:
    """How often each row is drawn when groups are resampled: float64 [draws, n]."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    count, rng = group.max() + 1, np.random.default_rng(seed)
    times = [
        np.bincount(rng.integers(0, count, count), minlength=count)
        for _ in range(draws)
    ]
    return np.asarray(times, np.float64)[:, group]


def flat(key: str, measure: str, numbers) -> dict[str, float]:
    """Findings of one measure: its value and the ends of its interval."""
    low, high = numbers["interval"]
    return {key: numbers[measure], f"{key}_low": low, f"{key}_high": high}


def cell(found, key: str) -> str:
    """A value with its interval, for a table."""
    low, high = found[f"{key}_low"], found[f"{key}_high"]
    return f"{found[key]:.2f} ({low:.2f} to {high:.2f})"
