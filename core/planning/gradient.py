"""Planning by gradient: Adam on the actions of several plans, through the model's rollout."""

import jax
import jax.numpy as jnp
import optax

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
    problems_of,
)


def make_gradient(
    objective: Objective,
    space: PlanSpace,
    *,
    horizon: int,
    candidates: int,
    rounds: int,
    rate: float = 0.1,
    noise: float = 0.0,
) -> Planner:
    """A planner that returns the best plan seen in all rounds. The cost is differentiable.

    The first plan begins at the guess, the others at normal noise around it. Each round
    takes a step of Adam and projects the plans onto the bounds. A gradient that is not
    finite counts as 0.

    Args:
      candidates: plans that are improved side by side (restarts).
      rounds: steps of Adam.
      rate: learning rate, as a multiple of the space's deviation.
      noise: deviation of noise that is added in each round, as the same multiple.
      The rest is as in core/planning/cem.py.

    Raises ValueError for a number out of its range.
    """
    check_counts(best=1, candidates=candidates, rounds=rounds, horizon=horizon)
    if not rate > 0:
        raise ValueError(f"planner.rate is {rate:g}; use more than 0")
    H, A = horizon, len(space.mean)
    adam = optax.adam(rate)

    def solve(params, context, key, guess=None) -> Plan:
        start = objective.encode(params, context)
        B = problems_of(start)
        guess = guess or begin_search(space, B, horizon=H)
        shape = B, candidates, H, A

        def total(plans, key):
            cost = objective.cost(params, start, plans, key)
            assert cost.shape == shape[:2], (cost.shape, shape)
            return jnp.where(jnp.isfinite(cost), cost, 0).sum(), cost

        def improve(carry, i):
            plans, opt, top, lowest = carry
            now = row_keys.fold(key, i)
            slope = jax.grad(total, has_aux=True)
            grads, cost = slope(plans, row_keys.fold(now, 1))
            top, lowest = better(plans, cost, top, lowest)
            grads = jnp.where(jnp.isfinite(grads), grads, 0)
            updates, opt = adam.update(grads, opt)
            plans = plans + space.std * jnp.asarray(updates)
            if noise:
                extra = noise * normal(row_keys.fold(now, 0), shape)
                plans = plans + space.std * extra
            return (space.clip(plans), opt, top, lowest), None

        spread = normal(row_keys.fold(row_keys.fold(key, 1 + rounds), 0), shape)
        spread = spread.at[:, 0].set(0)
        plans = space.clip(guess.actions[:, None] + space.std * spread)
        lowest = jnp.full(B, jnp.inf)
        carry = plans, adam.init(plans), guess.actions, lowest
        carry, _ = jax.lax.scan(improve, carry, 1 + jnp.arange(rounds))
        _, _, top, lowest = carry
        return finish(space, top, lowest, jnp.isfinite(lowest))

    return Planner(solve, lambda B: begin_search(space, B, horizon=H))


def better(plans, cost, top, lowest):
    """(plan [B, H, A], cost [B]): `top` and `lowest`, or the best of plans [B, S, H, A] of
    finite cost [B, S] where that is less.
    """
    cost = jnp.where(jnp.isfinite(cost), cost, jnp.inf)
    first = cost.argmin(1)[:, None, None, None]
    best, least = jnp.take_along_axis(plans, first, 1)[:, 0], cost.min(1)
    top = jnp.where((least < lowest)[:, None, None], best, top)
    return top, jnp.minimum(lowest, least)
