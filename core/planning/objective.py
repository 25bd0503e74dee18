"""The objective: what a planner needs of a model to compare candidate plans.

B problems are solved side by side, each with S candidates of H actions of A real numbers.
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

        Args:
          params, start: as above.
          plans: actions [B, S, H, A], within the planner's bounds.
          key: for models that sample: one, or one for each problem [B] (as in
            core/nn/row_keys.py). The candidates of a problem may share their noise.
        """
        ...
