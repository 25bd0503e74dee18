"""Statistics of evaluations against closed forms and brute force."""

import numpy as np
import pytest

from core.evals.neighbors import nearest_classes
from core.evals.statistics import (
    bootstrap,
    effective_rank,
    lidar,
    rankme,
    representation,
)

RNG = np.random.default_rng(0)


def test_bootstrap_of_a_mean_is_that_of_the_normal_law():
    values = RNG.random(400) < 0.3
    low, high = bootstrap(values)
    error = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 400)
    assert low == pytest.approx(values.mean() - error, abs=0.008)
    assert high == pytest.approx(values.mean() + error, abs=0.008)
    assert bootstrap([2.0, 2.0]) == (2.0, 2.0)


def test_ranks_count_equal_directions():
    """k orthogonal directions of equal length have rank k."""
    q, _ = np.linalg.qr(RNG.standard_normal((64, 64)))
    rows = np.concatenate([q[:5], -q[:5]])  # centered
    assert effective_rank(rows) == pytest.approx(5)
    assert rankme(rows) == pytest.approx(5, rel=1e-4)
    assert rankme(rows + 100 * q[6]) < 2 < effective_rank(rows + 100 * q[6])


def test_lidar_counts_directions_between_inputs():
    """Inputs differ along 3 of 8 directions, views along all."""
    n, q = 3000, 6
    means = np.zeros((n, 8))
    means[:, :3] = 30 * RNG.standard_normal((n, 3))
    x = means[:, None] + RNG.standard_normal((n, q, 8))
    assert lidar(x) == pytest.approx(3, abs=0.1)
    found = representation(x)
    assert found["lidar"] == lidar(x) and found["std_min"] < 2 < found["std"]


def test_nearest_neighbors_are_those_of_brute_force():
    bank, queries = RNG.standard_normal((50, 8)), RNG.standard_normal((7, 8))
    labels = RNG.integers(0, 3, 50)
    votes = nearest_classes(bank, labels, queries, classes=3, k=5)
    for query, vote in zip(queries, votes, strict=True):
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        wanted = np.zeros(3)
        for i in np.argsort(-cosines)[:5]:
            wanted[labels[i]] += np.exp((cosines[i] - 1) / 0.07)
        np.testing.assert_allclose(vote, wanted, rtol=1e-4)
