"""The cross-entropy method on objectives whose best plan is known."""

import jax
import numpy as np
import pytest
from objectives import HIGH, LOW, SCALE, Broken, Noisy, Quadratic, goals, solve

SEARCH = {"candidates": 200, "best": 20, "rounds": 10}


def cem(objective, goal, key, **changes):
    return solve("cem", objective, goal, key, **SEARCH | changes).actions


@pytest.mark.parametrize("rows", [False, True])
def test_it_finds_the_best_plan(rows):
    key, goal = jax.random.key(0), goals(5)
    found = cem(Quadratic(), goal, jax.random.split(key, 5) if rows else key)
    assert found.shape == (5, 3, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found, goal / SCALE, atol=0.02)


def test_it_stays_within_the_bounds():
    """Goals beyond the bounds: the best plan is the nearest one within them."""
    goal = np.full((1, 3, 2), 9.0, np.float32)
    goal[0, 1] = -9
    found = cem(Quadratic(), goal, jax.random.key(0))
    best = np.clip(goal / SCALE, LOW, HIGH)
    np.testing.assert_allclose(found, best, atol=0.02)
    assert (found >= LOW).all() and (found <= HIGH).all()


def test_more_rounds_come_nearer():
    goal, key = goals(20), jax.random.key(0)
    gaps = [
        np.abs(cem(Quadratic(), goal, key, rounds=n) * SCALE - goal).mean()
        for n in (1, 3, 6)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


@pytest.mark.parametrize("objective", [Quadratic(), Noisy()])
def test_a_problem_is_solved_alike_alone_and_among_others(objective):
    goal, keys = goals(4), jax.random.split(jax.random.key(0), 4)
    together = cem(objective, goal, keys)
    alone = [cem(objective, goal[i : i + 1], keys[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    swapped = cem(objective, goal[::-1], keys[::-1])
    np.testing.assert_allclose(together, swapped[::-1], atol=1e-5)


def test_a_key_decides_the_plan():
    goal = goals(2)
    first, again, other = (
        cem(Quadratic(), goal, jax.random.key(seed), rounds=1) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_costs_that_are_not_numbers_are_never_best():
    goal = np.zeros((1, 3, 2), np.float32)
    goal[:, :, 0] = -1.0  # in the broken half: its edge is the best there is
    found = cem(Broken(), goal, jax.random.key(0))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, :, 0], [0, -1, -1], atol=0.03)


def test_the_mean_itself_is_a_candidate():
    """With no room to sample in, the one round's best candidate is the guess."""
    goal = np.ones((1, 3, 2), np.float32)
    search = {"candidates": 2, "best": 1, "rounds": 1, "mean_first": True}
    found = cem(Quadratic(), goal * 0 + [0, 0.25], jax.random.key(0), **search)
    np.testing.assert_array_equal(found, [[[0, 0.5]] * 3])


def test_momentum_keeps_a_share_of_the_old_mean():
    goal, key = goals(3), jax.random.key(0)
    plain, slow = (
        cem(Quadratic(), goal, key, rounds=1, momentum=m) for m in (0.0, 0.25)
    )
    np.testing.assert_allclose(
        slow, 0.75 * plain + 0.25 * np.array([0, 0.5]), rtol=1e-5
    )


def test_as_many_best_as_candidates_at_most():
    with pytest.raises(ValueError, match="planner.best is 9; use 1 to 8"):
        cem(Quadratic(), goals(1), jax.random.key(0), candidates=8, best=9)
