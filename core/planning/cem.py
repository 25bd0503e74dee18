"""The cross-entropy method: plans are sampled around a mean that moves to the best ones.

arXiv 1811.04551, section 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from core.nn import row_keys
from core.planning.objective import Objective


def make_cem(
    objective: Objective,
    *,
    low,
    high,
    horizon: int,
    candidates: int,
    best: int,
    rounds: int,
) -> Callable:
    """plan(params, context, key) -> plans [B, H, A]; the first actions are plans[:, 0].

    Each round samples candidates from a normal distribution around a mean, clips them to
    the bounds, and takes mean and deviation of the best ones for the next round. The mean
    of the last round is returned. A candidate whose cost is NaN counts as the worst.

    key is one, or one for each problem [B]; in the latter case, a problem's plan does not
    depend on the problems beside it. Round i uses row_keys.fold(key, 1 + i); stream 0 is
    left to the caller, for exploration noise.

    Args:
      objective: of the plans.
      low, high: bounds of the actions [A], the same at every step.
      horizon: actions of a plan, H.
      candidates: sampled per round and problem, S.
      best: candidates that the next round is fitted to.
      rounds: of sampling.

    Raises ValueError if `best` is not within 1 and `candidates`.
    """
    if not 1 <= best <= candidates:
        raise ValueError(
            f"planner.best is {best}; use 1 to {candidates}, the candidates"
        )
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    A = len(low)

    def plan(params, context, key):
        start = objective.encode(params, context)
        B = len(jax.tree.leaves(start)[0])

        def improve(search, i):
            mean, std = search
            now = row_keys.fold(key, i)
            noise = normal(row_keys.fold(now, 0), (B, candidates, horizon, A))
            plans = jnp.clip(mean[:, None] + std[:, None] * noise, low, high)
            cost = objective.cost(params, start, plans, row_keys.fold(now, 1))
            assert cost.shape == (B, candidates), (cost.shape, plans.shape)
            cost = jnp.where(jnp.isnan(cost), jnp.inf, cost)
            chosen = jax.lax.top_k(-cost, best)[1][:, :, None, None]
            plans = jnp.take_along_axis(plans, chosen, 1)
            return (plans.mean(1), jnp.sqrt(plans.var(1) + 1e-6)), None

        middle, half = (low + high) / 2, (high - low) / 2
        shape = (B, horizon, A)
        search = jnp.broadcast_to(middle, shape), jnp.broadcast_to(half, shape)
        (mean, _), _ = jax.lax.scan(improve, search, 1 + jnp.arange(rounds))
        return mean

    return plan


def normal(key, shape):
    """Standard normal noise of plans [B, S, H, A] by one key, or by one for each problem."""
    if key.ndim:
        return row_keys.sample(jax.random.normal, key, shape)
    # Time first in memory, which decides the draws of a seed.
    B, S, H, A = shape
    return jax.random.normal(key, (H, B, S, A)).transpose(1, 2, 0, 3)
