"""Planning in latents: the cost of plans is the squared distance to the goal's latent.

arXiv 2603.19312, section 3.4, counts the last step of a plan; arXiv 2502.14819 several.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from core.planning.goals import GoalModel
from core.planning.objective import over_horizon
from core.section import Section
from jepa.worlds.latent_world import LatentWorld
from jepa.worlds.planning import Acting, Planning, picture_views


class LatentGoal(NamedTuple):
    """A core.planning.objective.Objective; params are the weights of `world`.

    last: how many of the last blocks count, 0 all.
    """

    world: LatentWorld
    last: int = 1

    def encode(self, params, context):
        """Latents of the context [B, n, D] and of the goal [B, D], and blocks between.

        context: {"image": uint8 [B, n, size, size, 3], "blocks": [B, n - 1, skip A],
        "goal": uint8 [B, size, size, 3]}.
        """
        latents = self.world.encode(params, context["image"])
        goal = self.world.encode(params, context["goal"])
        return {"latents": latents, "blocks": context["blocks"], "goal": goal}

    def cost(self, params, start, plans, key):
        """Squared distance to the goal, summed over the latent: [B, S]."""
        predicted = self.roll(params, start, plans)
        gap = jnp.square(predicted - start["goal"][:, None, None]).sum(-1)
        return over_horizon(gap, last=self.last)

    def roll(self, params, start, plans):
        """Latents after each block of the plans: [B, S, H, skip A] -> [B, S, H, D]."""
        B, S, H, width = plans.shape
        latents, taken = (jnp.repeat(start[k], S, 0) for k in ("latents", "blocks"))
        blocks = jnp.concatenate([taken, plans.reshape(B * S, H, width)], 1)
        return self.world.roll(params, latents, blocks).reshape(B, S, H, -1)


def make_goal_model(world: LatentWorld, actions: dict, *, image: str, last: int):
    """A core.planning.goals.GoalModel.

    actions: {"mean", "std"} of a state. image: name of the picture; "" is "image". last: as
    in LatentGoal.
    """
    goal, name = LatentGoal(world, last), image or "image"

    def context(observed, blocks, wanted):
        sides = world.size
        for what, arrays in (("observation", observed), ("goal", wanted)):
            if name not in arrays:
                raise ValueError(f"the {what} has no {name!r}")
            shape = arrays[name].shape[-3:]
            if shape != (sides, sides, 3):
                raise ValueError(
                    f"{name!r} of the {what} is {shape}; expected {(sides, sides, 3)}"
                )
        window = world.history
        return {
            "image": observed[name][:, -window:],
            "blocks": blocks[:, -(window - 1) :] if window > 1 else blocks[:, :0],
            "goal": wanted[name],
        }

    def encode(params, frames):
        return world.encode(params, frames[name])

    return GoalModel(
        objective=goal,
        context=context,
        encode=encode,
        roll=goal.roll,
        mean=np.asarray(actions["mean"]),
        std=np.asarray(actions["std"]),
        skip=world.skip,
        history=world.history,
    )


def make_acting(
    title: str, world: LatentWorld, plan: Planning, *, data: Section, width: int
) -> Acting:
    """What plans need of a method. title: of the model card. data: the config's section.
    width: numbers of an environment action.
    """
    return Acting(
        title=title,
        goal_model=lambda state: make_goal_model(
            world,
            world.weights_of(state)["actions"],
            image=data["image"],
            last=plan.last,
        ),
        params_of=world.weights_of,
        source=data["source"],
        views=picture_views((data["image"],), world.size),
        size=world.size,
        width=width,
    )
