"""The cross-entropy method on objectives whose best plan is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.nn import row_keys
from core.planning.cem import make_cem
from core.planning.objective import Objective

SEARCH = {"horizon": 3, "candidates": 200, "best": 20, "rounds": 10}
BOUNDS = {"low": [-2.0, 0.0], "high": [2.0, 1.0]}
SCALE = np.array([1.0, 0.5])


class Quadratic:
    """Squared distance of a scaled plan to the one that the context asks for."""

    def encode(self, params, context):
        return {"goal": context["goal"] * params}

    def cost(self, params, start, plans, key):
        gap = plans * SCALE - start["goal"][:, None]
        return jnp.square(gap).sum((-2, -1))


class Noisy(Quadratic):
    """The same with noise on every cost."""

    def cost(self, params, start, plans, key):
        cost = super().cost(params, start, plans, key)
        return cost + 0.1 * row_keys.sample(jax.random.normal, key, cost.shape)


class Broken(Quadratic):
    """The same, but not a number on one side of the bounds' middle."""

    def cost(self, params, start, plans, key):
        cost = super().cost(params, start, plans, key)
        return jnp.where(plans[:, :, 0, 0] < 0, jnp.nan, cost)


def goals(B, seed=0):
    """Scaled plans within the bounds [B, H, A]."""
    rng = np.random.default_rng(seed)
    low, high = (np.array(BOUNDS[k]) * SCALE for k in ("low", "high"))
    return rng.uniform(low, high, (B, SEARCH["horizon"], 2)).astype(np.float32)


def solve(objective: Objective, goal, key, **changes):
    plan = make_cem(objective, **BOUNDS, **SEARCH | changes)
    return np.asarray(jax.jit(plan)(np.float32(1), {"goal": goal}, key))


@pytest.mark.parametrize("rows", [False, True])
def test_it_finds_the_best_plan(rows):
    key, goal = jax.random.key(0), goals(5)
    found = solve(Quadratic(), goal, jax.random.split(key, 5) if rows else key)
    assert found.shape == (5, 3, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found, goal / SCALE, atol=0.02)


def test_it_stays_within_the_bounds():
    """Goals beyond the bounds: the best plan is the nearest one within them."""
    goal = np.full((1, 3, 2), 9.0, np.float32)
    goal[0, 1] = -9
    found = solve(Quadratic(), goal, jax.random.key(0))
    best = np.clip(goal / SCALE, BOUNDS["low"], BOUNDS["high"])
    np.testing.assert_allclose(found, best, atol=0.02)
    assert (found >= BOUNDS["low"]).all() and (found <= BOUNDS["high"]).all()


def test_more_rounds_come_nearer():
    goal, key = goals(20), jax.random.key(0)
    gaps = [
        np.abs(solve(Quadratic(), goal, key, rounds=n) * SCALE - goal).mean()
        for n in (1, 3, 6)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


@pytest.mark.parametrize("objective", [Quadratic(), Noisy()])
def test_a_problem_is_solved_alike_alone_and_among_others(objective):
    goal, keys = goals(4), jax.random.split(jax.random.key(0), 4)
    together = solve(objective, goal, keys)
    alone = [solve(objective, goal[i : i + 1], keys[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    swapped = solve(objective, goal[::-1], keys[::-1])
    np.testing.assert_allclose(together, swapped[::-1], atol=1e-5)


def test_a_key_decides_the_plan():
    goal = goals(2)
    first, again, other = (
        solve(Quadratic(), goal, jax.random.key(seed), rounds=1) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_costs_that_are_not_numbers_are_never_best():
    goal = np.zeros((1, 3, 2), np.float32)
    goal[:, :, 0] = -1.0  # in the broken half: its edge is the best there is
    found = solve(Broken(), goal, jax.random.key(0))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, :, 0], [0, -1, -1], atol=0.03)


def test_as_many_best_as_candidates_at_most():
    with pytest.raises(ValueError, match="planner.best is 9; use 1 to 8"):
        make_cem(Quadratic(), **BOUNDS, **SEARCH | {"candidates": 8, "best": 9})
