"""MPPI: the mean of candidates weighted by the exponential of their cost.

arXiv 1707.02342, section III; with elites and a fitted deviation as in TD-MPC (arXiv
2203.04955, section 3.1).
"""

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


def make_mppi(
    objective: Objective,
    space: PlanSpace,
    *,
    horizon: int,
    candidates: int,
    best: int,
    rounds: int,
    temperature: float = 0.5,
    std_min: float = 0.05,
    std_max: float = 2.0,
) -> Planner:
    """A planner that returns the weighted mean of the last round's best candidates.

    Candidate i of the `best` weighs exp((lowest cost - cost i) / temperature); the next
    round samples around their mean with their deviation. As the temperature goes to 0, the
    mean goes to the best candidate. Classical MPPI: `best` equal to `candidates`, and
    `std_min` equal to `std_max`, its fixed deviation.

    Args:
      temperature: in units of the cost, above 0.
      std_min, std_max: range of the deviation, as a multiple of that of the space.
      The rest is as in core/planning/cem.py.

    Raises ValueError for a number out of its range.
    """
    check_counts(best=best, candidates=candidates, rounds=rounds, horizon=horizon)
    if not temperature > 0:
        raise ValueError(f"planner.temperature is {temperature:g}; use more than 0")
    if not 0 <= std_min <= std_max:
        raise ValueError(
            f"planner.std_min is {std_min:g}; use 0 to {std_max:g}, the std_max"
        )
    H, A = horizon, len(space.mean)

    def solve(params, context, key, guess=None) -> Plan:
        start = objective.encode(params, context)
        B = problems_of(start)
        guess = guess or begin_search(space, B, horizon=H)
        lowest, highest = std_min * space.std, std_max * space.std

        def improve(carry, i):
            mean, std, found = carry
            now = row_keys.fold(key, i)
            noise = normal(row_keys.fold(now, 0), (B, candidates, H, A))
            plans = space.clip(mean[:, None] + std[:, None] * noise)
            cost = finite_cost(objective, params, start, plans, row_keys.fold(now, 1))
            value, chosen = jax.lax.top_k(-cost, best)
            elites = jnp.take_along_axis(plans, chosen[:, :, None, None], 1)
            fine = jnp.isfinite(value[:, 0])
            new, spread = weighted(elites, softmin(-value, temperature))
            spread, here = jnp.clip(spread, lowest, highest), fine[:, None, None]
            mean, std = jnp.where(here, new, mean), jnp.where(here, spread, std)
            return (mean, std, found | fine), -value[:, 0]

        std = jnp.broadcast_to(jnp.clip(space.std, lowest, highest), (B, H, A))
        carry = guess.actions, std, jnp.zeros(B, bool)
        carry, cost = jax.lax.scan(improve, carry, 1 + jnp.arange(rounds))
        return finish(space, carry[0], cost[-1], carry[-1])

    return Planner(solve, lambda B: begin_search(space, B, horizon=H))


def weighted(plans, weight):
    """(mean, deviation) [B, H, A] of plans [B, E, H, A] with weights [B, E] of sum 1."""
    weight = weight[:, :, None, None]
    mean = (weight * plans).sum(1)
    return mean, jnp.sqrt((weight * jnp.square(plans - mean[:, None])).sum(1))


def softmin(cost, temperature: float):
    """Weights of costs [B, E], exp(-cost / temperature) over their sum; 0 where infinite."""
    above = cost - jnp.where(jnp.isfinite(cost), cost, jnp.inf).min(1, keepdims=True)
    weight = jnp.where(jnp.isfinite(cost), jnp.exp(-above / temperature), 0)
    return weight / jnp.maximum(weight.sum(1, keepdims=True), 1e-30)
