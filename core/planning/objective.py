"""The objective: what a planner needs of a model to compare candidate plans.

B problems are solved side by side, each with S candidates of H actions of A real numbers.
Discrete actions are one-hot, as in recordings.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax

SIDE_BY_SIDE = 4  # problems whose rollouts are one piece of a program on CPUs


class Objective(Protocol):
    """A model and a task as a cost of plans. Both functions are pure and run inside jit."""

    def encode(self, params: Any, context: Any) -> Any:
        """Whatever of a plan's cost does not depend on the plan, computed once per plan.

        Args:
          params: weights of the model.
          context: what is known of each problem, a pytree of arrays [B, ...], such as past
            observations and a goal, or the state of a world.

        Returns:
          start: a pytree of arrays [B, ...], such as latent states and latent goals.
        """
        ...

    def cost(
        self, params: Any, start: Any, plans: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Cost of every candidate, float32 [B, S]; lower is better.

        A cost that is not finite marks a candidate that must not be chosen.

        Args:
          params, start: as above.
          plans: actions [B, S, H, A], within the planner's bounds.
          key: for models that sample: one, or one for each problem [B] (as in
            core/nn/row_keys.py). The candidates of a problem may share their noise.
        """
        ...


def by_problem(roll: Callable, start: Any, plans: jax.Array) -> Any:
    """roll(start [B, ...], plans [B, S, H, A]): arrays [B, S, ...] that each problem has alone.

    On CPUs one problem is rolled after the other, so that the numbers of one stay in the
    cache. SIDE_BY_SIDE of them do not wait for each other, and keep all cores busy.
    """
    if len(plans) == 1:
        return roll(start, plans)

    def one(_, problem):
        found = roll(*jax.tree.map(lambda x: x[None], problem))
        return None, jax.tree.map(lambda x: x[0], found)

    def in_turn(*problems):
        return jax.lax.scan(one, None, problems, unroll=SIDE_BY_SIDE)[1]

    return jax.lax.platform_dependent(start, plans, cpu=in_turn, default=roll)


def over_horizon(costs: jax.Array, *, last: int) -> jax.Array:
    """Costs of steps [..., H] -> cost of the plan [...]: the sum of the `last` steps.

    last: 1 for the last step only (LeWorldModel, arXiv 2603.19312), 0 for all steps
    (PLDM, arXiv 2502.14819). Raises ValueError if it is negative or above H.
    """
    H = costs.shape[-1]
    if not 0 <= last <= H:
        raise ValueError(f"cost.last is {last}; use 0 for all steps, or 1 to {H}")
    return costs[..., H - (last or H) :].sum(-1)
