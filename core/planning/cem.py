"""The cross-entropy method: plans are sampled around a mean that moves to the best ones.

arXiv 1811.04551, section 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from core.nn import row_keys
from core.planning.noise import normal
from core.planning.objective import Objective
from core.planning.plans import (
    Plan,
    Planner,
    PlanSpace,
    begin_search,
    check_counts,
    finish,
    finite_cost,
    problems_of,
)


def make_cem(
    objective: Objective,
    space: PlanSpace,
    *,
    horizon: int,
    candidates: int,
    best: int,
    rounds: int,
    momentum: float = 0.0,
    mean_first: bool = False,
) -> Planner:
    """A planner that returns the mean of the last round's best candidates.

    Each round samples candidates from a normal distribution around a mean, clips them to
    the bounds, and takes mean and deviation of the best ones for the next round. A
    candidate whose cost is not finite is never among them.

    Args:
      objective: of the plans. space: bounds and first candidates.
      horizon: actions of a plan, H.
      candidates: sampled per round and problem, S.
      best: candidates that the next round is fitted to.
      rounds: of sampling.
      momentum: share of the old mean and deviation in the new ones.
      mean_first: whether the mean itself is the first candidate of each round.

    Raises ValueError if `best` is not within 1 and `candidates`.
    """
    plan = search_elites(
        objective,
        space,
        horizon=horizon,
        candidates=candidates,
        best=best,
        rounds=rounds,
        momentum=momentum,
        mean_first=mean_first,
    )

    def solve(params, context, key, guess=None) -> Plan:
        mean, _, cost, found = plan(params, context, key, guess)
        return finish(space, mean, cost, found)

    return Planner(solve, lambda B: begin_search(space, B, horizon=horizon))


def search_elites(
    objective: Objective,
    space: PlanSpace,
    *,
    horizon: int,
    candidates: int,
    best: int,
    rounds: int,
    momentum: float,
    mean_first: bool,
    keep: int = 0,
    draw: Callable = normal,
) -> Callable:
    """search(params, context, key, guess) -> (mean [B, H, A], elites [B, E, H, A], cost [B],
    found [B]); elites are those of the last round, best first, and `cost` that of the first.

    keep: elites of each round that are candidates of the next one, in place of as many new
    ones; those of the first round are guess.kept. draw: (key, shape) -> noise of unit
    variance. The rest is as in `make_cem`.
    """
    check_counts(best=best, candidates=candidates, rounds=rounds, horizon=horizon)
    H, A = horizon, len(space.mean)

    def search(params, context, key, guess=None):
        start = objective.encode(params, context)
        B = problems_of(start)
        guess = guess or begin_search(space, B, horizon=H, keep=keep)
        assert guess.actions.shape == (B, H, A), (guess.actions.shape, B, H, A)

        def improve(carry, i):
            mean, std, kept, found = carry
            now = row_keys.fold(key, i)
            noise = draw(row_keys.fold(now, 0), (B, candidates, H, A))
            if mean_first:
                noise = noise.at[:, 0].set(0)
            plans = space.clip(mean[:, None] + std[:, None] * noise)
            if keep:
                plans = plans.at[:, candidates - keep :].set(kept)
            cost = finite_cost(objective, params, start, plans, row_keys.fold(now, 1))
            value, chosen = jax.lax.top_k(-cost, best)
            elites = jnp.take_along_axis(plans, chosen[:, :, None, None], 1)
            fine = jnp.isfinite(value)
            new = fit_normal(elites, fine)
            old, here = (mean, std), fine[:, :1, None]
            mean, std = (
                jnp.where(here, momentum * a + (1 - momentum) * b, a)
                for a, b in zip(old, new, strict=True)
            )
            kept = jnp.where(fine[:, :keep, None, None], elites[:, :keep], kept)
            return (mean, std, kept, found | fine[:, 0]), (elites, -value[:, 0])

        std = jnp.broadcast_to(space.std, (B, H, A))
        carry = guess.actions, std, guess.kept, jnp.zeros(B, bool)
        carry, (elites, cost) = jax.lax.scan(improve, carry, 1 + jnp.arange(rounds))
        return carry[0], elites[-1], cost[-1], carry[-1]

    return search


def fit_normal(elites, fine):
    """(mean, deviation) [B, H, A] of the elites [B, E, H, A] that are fine, bool [B, E]."""
    weight = fine[:, :, None, None] / jnp.maximum(fine.sum(1), 1)[:, None, None, None]
    mean = (weight * elites).sum(1)
    var = (weight * jnp.square(elites - mean[:, None])).sum(1)
    return mean, jnp.sqrt(var + 1e-6)
