"""The cross-entropy method for discrete actions: frequencies of classes among the best plans.

arXiv 1811.04551, section 2, with categorical in place of normal distributions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.nn import row_keys
from core.planning.objective import Objective
from core.planning.plans import (
    Guess,
    Plan,
    Planner,
    check_counts,
    finite_cost,
    problems_of,
)


class Choices(NamedTuple):
    """Discrete actions: one class of each size, as one-hot vectors side by side.

    sizes: classes of each choice; A is their sum. hold: the class of each that is taken
    where no plan was found; class 0 by default.
    """

    sizes: tuple[int, ...]
    hold: tuple[int, ...] = ()


def make_categorical(
    objective: Objective,
    space: Choices,
    *,
    horizon: int,
    candidates: int,
    best: int,
    rounds: int,
    momentum: float = 0.0,
    smoothing: float = 1.0,
) -> Planner:
    """A planner of one-hot actions [B, H, A]: the likeliest classes after the last round.

    Each round draws the class of every step from its probabilities, and sets these to the
    frequencies among the best candidates, each class counted `smoothing` times more
    (Laplace). A guess is of probabilities.

    Args:
      momentum: share of the old probabilities in the new ones. The rest is as in
      core/planning/cem.py.

    Raises ValueError for a number out of its range.
    """
    check_counts(best=best, candidates=candidates, rounds=rounds, horizon=horizon)
    H, sizes = horizon, np.asarray(space.sizes)
    if not len(sizes) or sizes.min() < 1:
        raise ValueError(f"choices of {space.sizes} classes exclude every action")
    A, edges = int(sizes.sum()), np.cumsum(sizes)[:-1]
    hold = one_hots([jnp.asarray(i) for i in space.hold or [0] * len(sizes)], sizes)

    def begin(B):
        uniform = np.repeat(1 / sizes, sizes).astype(np.float32)
        kept = jnp.zeros((B, 0, H, A))
        return Guess(jnp.broadcast_to(uniform, (B, H, A)), kept)

    def likeliest(probs):
        return one_hots([p.argmax(-1) for p in jnp.split(probs, edges, -1)], sizes)

    def solve(params, context, key, guess=None) -> Plan:
        start = objective.encode(params, context)
        B = problems_of(start)
        guess = guess or begin(B)

        def improve(carry, i):
            probs, found = carry
            now = row_keys.fold(key, i)
            noise = row_keys.sample(
                jax.random.gumbel, row_keys.fold(now, 0), (B, candidates, H, A)
            )
            plans = likeliest(jnp.log(probs)[:, None] + noise)
            cost = finite_cost(objective, params, start, plans, row_keys.fold(now, 1))
            value, chosen = jax.lax.top_k(-cost, best)
            elites = jnp.take_along_axis(plans, chosen[:, :, None, None], 1)
            fine = jnp.isfinite(value)
            count = (elites * fine[:, :, None, None]).sum(1) + smoothing
            parts = [x / x.sum(-1, keepdims=True) for x in jnp.split(count, edges, -1)]
            new = jnp.concatenate(parts, -1)
            blend = momentum * probs + (1 - momentum) * new
            probs = jnp.where(fine[:, :1, None], blend, probs)
            return (probs, found | fine[:, 0]), -value[:, 0]

        carry = guess.actions, jnp.zeros(B, bool)
        (probs, found), cost = jax.lax.scan(improve, carry, 1 + jnp.arange(rounds))
        actions = jnp.where(found[:, None, None], likeliest(probs), hold)
        cost = jnp.where(found, cost[-1], jnp.inf)
        return Plan(actions, cost, found, guess.kept)

    return Planner(solve, begin)


def one_hots(classes, sizes):
    """Classes [...] of each choice -> one-hot vectors side by side [..., A]."""
    return jnp.concatenate(
        [jax.nn.one_hot(c, n) for c, n in zip(classes, sizes, strict=True)], -1
    )
