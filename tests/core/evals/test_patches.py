"""Linear heads on tokens: planted classes are read; mean IoU against counted tokens."""

import numpy as np
import pytest

from core.evals.classification import Options
from core.evals.dense import mean_iou, pixel_accuracy, score_patches
from core.evals.extract import Features
from core.evals.fit import Grid

RNG = np.random.default_rng(0)


def test_mean_iou_is_as_defined():
    true, guess = RNG.integers(0, 3, (2, 5, 40))
    confusion = np.zeros((5, 4, 4))  # class 3 does not occur
    for i in range(5):
        np.add.at(confusion[i], (true[i], guess[i]), 1)
    times = np.array([1, 0, 2, 1, 1])
    t, g = (np.repeat(x, times, 0).ravel() for x in (true, guess))
    wanted = np.mean(
        [((t == c) & (g == c)).sum() / ((t == c) | (g == c)).sum() for c in range(3)]
    )
    weights = times[None].astype(float)
    assert mean_iou(weights, confusion) == pytest.approx([wanted])
    assert pixel_accuracy(weights, confusion) == pytest.approx([(t == g).mean()])


def test_a_head_answers_for_each_cell_of_a_token():
    """Two cells in a token, each with a class of its own in the token's code."""
    codes = RNG.standard_normal((2, 3, 8))
    parts, labels = [], []
    for n in (60, 30):
        y = RNG.integers(0, 3, (n, 4, 2))
        tokens = codes[0][y[..., 0]] + codes[1][y[..., 1]]
        parts.append(Features(tokens[:, None].astype(np.float16), np.arange(n), {}))
        labels.append(y.reshape(n, -1))
    options = Options(steps=150, head_batch=16, grid=Grid((0.1,), (0.01,), (0,)))
    found = score_patches(*parts, tuple(labels), classes=3, options=options, cells=2)
    assert found["accuracy"]["accuracy"] > 0.95
    turned = tuple(np.roll(y, 1, 1) for y in labels)  # the cells of other tokens
    worse = score_patches(*parts, turned, classes=3, options=options, cells=2)
    assert worse["accuracy"]["accuracy"] < 0.8


def test_a_linear_head_reads_planted_classes_alone():
    codes = RNG.standard_normal((3, 8))
    parts, labels = [], []
    for n in (60, 30):
        y = RNG.integers(0, 3, (n, 5))
        tokens = 100 + 30 * (codes[y] + 0.3 * RNG.standard_normal((n, 5, 8)))
        tokens[:, 3:] = 100  # nothing to read in two tokens of five
        parts.append(Features(tokens[:, None].astype(np.float16), np.arange(n), {}))
        labels.append(y)
    options = Options(
        steps=60, head_batch=16, grid=Grid((0.1, 1e-7), (0.01,), (0, 1, 2))
    )
    found = score_patches(*parts, tuple(labels), classes=3, options=options)
    low, high = found["accuracy"]["interval"]
    share = 3 / 5 + 2 / 5 / 3
    assert low < found["accuracy"]["accuracy"] < high
    assert found["accuracy"]["accuracy"] == pytest.approx(share, abs=0.1)
    assert found["miou"]["rate"] == 0.1 and len(found["miou"]["seeds"]) == 3
    assert found["miou"]["spread"][0] < 0.5 < found["miou"]["miou"]
