"""Planning with LeWorldModel: the cost of plans is the distance of latents to the goal's.

arXiv 2603.19312, section 3.4: the squared distance of the last predicted latent.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.planning.goals import GoalModel
from core.planning.objective import over_horizon


class LatentGoal(NamedTuple):
    """A core.planning.objective.Objective.

    networks: of lewm.Networks. params are {"params", "norms", ...} of a state. window: most
    latents that a prediction sees, up to the history of training. last: how many of the
    last blocks count, 0 all.
    """

    networks: Any
    window: int
    last: int = 1

    def encode(self, params, context):
        """Latents of the context [B, n, D] and of the goal [B, D], and blocks between.

        context: {"image": uint8 [B, n, size, size, 3], "blocks": [B, n - 1, skip A],
        "goal": uint8 [B, size, size, 3]}.
        """
        latents = latents_of(self.networks, params, context["image"])
        goal = latents_of(self.networks, params, context["goal"])
        return {"latents": latents, "blocks": context["blocks"], "goal": goal}

    def cost(self, params, start, plans, key):
        """Squared distance to the goal, summed over the latent: [B, S]."""
        predicted = self.roll(params, start, plans)
        gap = jnp.square(predicted - start["goal"][:, None, None]).sum(-1)
        return over_horizon(gap, last=self.last)

    def roll(self, params, start, plans):
        """Latents after each block of the plans: [B, S, H, skip A] -> [B, S, H, D].

        Each prediction sees the last `window` latents, predicted ones among them, and the
        blocks taken after them.
        """
        B, S, H, width = plans.shape
        n = min(self.window, start["latents"].shape[1])
        known, taken = start["latents"][:, -n:], start["blocks"][:, -(n - 1) or H :]
        taken = taken[:, :0] if n == 1 else taken

        def every(x):
            """[B, ...] for every candidate: [B S, ...]."""
            return jnp.repeat(x, S, 0)

        latents = list(jnp.moveaxis(every(known), 1, 0))
        blocks = list(jnp.moveaxis(every(taken), 1, 0))
        blocks += list(jnp.moveaxis(plans.reshape(B * S, H, width), 1, 0))
        first = len(latents)
        for _ in range(H):
            end = len(latents)
            seen = slice(max(0, end - self.window), end)
            guess, _ = self.networks.predict(
                params["params"],
                jnp.stack(latents[seen], 1),
                jnp.stack(blocks[seen], 1),
                params["norms"],
            )
            latents.append(guess[:, -1])
        return jnp.stack(latents[first:], 1).reshape(B, S, H, -1)


def latents_of(networks, params, images) -> jax.Array:
    """uint8 [..., size, size, 3] -> latents [..., D], with the running statistics."""
    return networks.encode(params["params"], images, params["norms"])[0]


def make_goal_model(networks, actions: dict, *, image: str, window: int, last: int):
    """A core.planning.goals.GoalModel.

    actions: {"mean", "std"} of a state. image: name of the picture; "" is "image". window,
    last: as in LatentGoal. Raises ValueError for a window beyond the history of training.
    """
    if not 1 <= window <= networks.predictor.history:
        raise ValueError(
            f"plan.window is {window}; use 1 to {networks.predictor.history}, the history"
        )
    goal, name = LatentGoal(networks, window, last), image or "image"

    def context(observed, blocks, wanted):
        sides = networks.size
        for what, arrays in (("observation", observed), ("goal", wanted)):
            if name not in arrays:
                raise ValueError(f"the {what} has no {name!r}")
            shape = arrays[name].shape[-3:]
            if shape != (sides, sides, 3):
                raise ValueError(
                    f"{name!r} of the {what} is {shape}; expected {(sides, sides, 3)}"
                )
        return {
            "image": observed[name][:, -window:],
            "blocks": blocks[:, -(window - 1) :] if window > 1 else blocks[:, :0],
            "goal": wanted[name],
        }

    def encode(params, frames):
        return latents_of(networks, params, frames[name])

    return GoalModel(
        objective=goal,
        context=context,
        encode=encode,
        roll=goal.roll,
        mean=np.asarray(actions["mean"]),
        std=np.asarray(actions["std"]),
        skip=networks.skip,
        history=window,
    )
