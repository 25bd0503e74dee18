"""The objective: what a planner needs of a model to compare candidate plans.

B problems are solved side by side, each with S candidates of H actions of A real numbers.
Discrete actions are one-hot, as in recordings.
"""

from typing import Any, Protocol

import jax


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


def over_horizon(costs: jax.Array, *, last: int) -> jax.Array:
    """Costs of steps [..., H] -> cost of the plan [...]: the sum of the `last` steps.

    last: 1 for the last step only (LeWorldModel, arXiv 2603.19312), 0 for all steps
    (PLDM, arXiv 2502.14819). Raises ValueError if it is negative or above H.
    """
    H = costs.shape[-1]
    if not 0 <= last <= H:
        raise ValueError(f"cost.last is {last}; use 0 for all steps, or 1 to {H}")
    return costs[..., H - (last or H) :].sum(-1)
