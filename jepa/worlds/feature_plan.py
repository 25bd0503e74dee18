"""Planning in the features of a frozen encoder, towards a goal image.

The cost of a plan is the distance of the frame that is predicted after its last action from
that of the goal: V-JEPA 2-AC (arXiv 2506.09985, section 3.2), DINO-WM (2411.04983).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.planning.goals import GoalModel
from core.planning.objective import over_horizon
from core.section import Section
from jepa.worlds.feature_model import FeatureModel
from jepa.worlds.planning import Acting, Planning, picture_views


class FrameGoal:
    """core.planning.objective.Objective of a FeatureModel.

    A context has image uint8 [B, n, V, h, w, 3], action [B, n - 1, A] and state [B, n, S],
    and of the goal goal uint8 [B, V, h, w, 3] and goal_state [B, S].
    """

    def __init__(self, networks: FeatureModel, to_model, reach: int, last: int):
        """to_model: blocks of actions -> the model's. reach: window of `open_loop`.

        last: how many of the last blocks the cost sums, 0 all.
        """
        self.networks, self.to_model = networks, to_model
        self.reach, self.last = reach, last

    def encode(self, params, context):
        """The frames and the goal's, with what was done between the frames."""

        def frames(image, state):
            features = self.networks.encode(params["encoder"], image)
            return self.networks.observe(params, features, state)

        goal = frames(context["goal"][:, None], context["goal_state"][:, None])
        return {
            "seen": frames(context["image"], context["state"]),
            "goal": jax.tree.map(lambda x: x[:, 0], goal),
            "action": context["action"],
        }

    def roll(self, params, start, plans):
        """Frames after each block of plans [B, S, H, width]: arrays [B, S, H, ...]."""
        B, S, H, _ = plans.shape
        seen, taken = jax.tree.map(
            lambda x: jnp.repeat(x, S, 0), (start["seen"], start["action"])
        )
        planned = self.to_model(plans).reshape(B * S, H, -1)
        found = self.networks.open_loop(
            params,
            seen,
            jnp.concatenate([taken, planned], 1),
            window=self.reach,
        )
        return jax.tree.map(lambda x: x.reshape(B, S, H, *x.shape[2:]), found)

    def cost(self, params, start, plans, key):
        """float32 [B, S]."""
        found = self.roll(params, start, plans)
        goal = jax.tree.map(lambda x: x[:, None, None], start["goal"])
        return over_horizon(self.networks.distance(found, goal), last=self.last)


def make_goal_model(
    networks: FeatureModel,
    *,
    action: str,
    skip: int,
    size: int,
    images,
    states,
    window: int,
    reach: int,
    last: int,
    mean,
    std,
) -> GoalModel:
    """What planners need of a method with a frozen encoder.

    Args:
      action: kind of the model's actions, a name in jepa.worlds.robot_clips.ACTIONS.
      skip: environment steps of a block.
      size, images, states: of the config's data.
      window: most frames that are observed before a plan. reach: most frames that a predicted
        step sees, predicted ones among them; 0 for as many as in training.
      last: how many of the last blocks the cost of a plan sums, 0 all.
      mean, std: of environment actions [A], which plans are normalized by.

    Raises ValueError for poses, whose changes are no actions of an environment.
    """
    mean, std = (np.asarray(x, np.float32) for x in (mean, std))
    if action == "pose":
        raise ValueError(
            "data.action is 'pose', which no environment here takes; plans need concatenated "
            "or summed"
        )

    held = action == "summed"  # of the model's action only the mean counts
    times = 1 if held else skip

    def to_model(blocks):
        """Normalized blocks -> actions in units of the data, as in clips."""
        actions = blocks * np.tile(std, times) + np.tile(mean, times)
        return actions * skip if held else actions

    names = [name or "image" for name in images or ("",)]

    def views(observed, what):
        """uint8 [B, n, V, size, size, 3] of pictures [B, n, size, size, 3] by name."""
        for name in names:
            if name not in observed:
                raise ValueError(f"the {what} has no {name!r}")
            shape = tuple(observed[name].shape[2:])
            if shape != (size, size, 3):
                raise ValueError(
                    f"{name!r} of the {what} is {shape}; expected {(size, size, 3)}"
                )
        return jnp.stack([observed[name] for name in names], 2)

    def state_of(observed, what, blocks):
        """float32 [B, n, S] of the observations that make the state; one 0 without any."""
        B, n = observed[names[0]].shape[:2]
        if not states:
            return jnp.zeros((B, n, 1))
        if missing := [name for name in states if name not in observed]:
            raise ValueError(f"the {what} has no {missing[0]!r}")
        known = [jnp.reshape(observed[k], (B, n, -1)) for k in states]
        state = jnp.concatenate(known, -1).astype(jnp.float32)
        if isinstance(blocks, np.ndarray) and not np.isfinite(state).all():
            raise ValueError(f"the state of the {what} has values that are not finite")
        return state

    def context(observed, blocks, goal):
        wanted = {name: x[:, None] for name, x in goal.items()}
        return {
            "image": views(observed, "observation"),
            "goal": views(wanted, "goal")[:, 0],
            "action": jnp.asarray(to_model(blocks), jnp.float32),
            "state": state_of(observed, "observation", blocks),
            "goal_state": state_of(wanted, "goal", blocks)[:, 0],
        }

    objective = FrameGoal(networks, to_model, reach, last)

    def encode(params, frames):
        return networks.encode(params["encoder"], views(frames, "recording"))

    return GoalModel(
        objective=objective,
        context=context,
        encode=encode,
        roll=lambda *given: objective.roll(*given)["features"],
        mean=mean,
        std=std,
        skip=skip,
        history=window,
        held=held,
    )


def make_acting(
    networks: FeatureModel,
    config: Section,
    plan: Planning,
    widths: tuple[int, int],
    *,
    title: str,
    params_of: Callable[[Any], dict],
    moments: Callable[[Any, int], tuple],
    reach: int,
) -> Acting:
    """What plans need of a method with a frozen encoder.

    Args:
      widths: numbers of an action of a clip and of a state.
      title: of the model card. params_of: state -> weights.
      moments: (state, A) -> mean and deviation of environment actions, [A] each.
      reach: as of `make_goal_model`.
    """
    data, skip = config["data"], config["clip"]["skip"]
    width = widths[0] // skip if data["action"] == "concatenated" else widths[0]
    names = data["images"] or ("",)
    views = picture_views(names, data["size"])
    if len(data["states"]) == 1:
        views[data["states"][0]] = ((widths[1],), "float32")

    def goal_model(state):
        mean, std = moments(state, width)
        return make_goal_model(
            networks,
            action=data["action"],
            skip=skip,
            size=data["size"],
            images=names,
            states=data["states"],
            window=plan.window,
            reach=reach,
            last=plan.last,
            mean=mean,
            std=std,
        )

    return Acting(
        title=title,
        goal_model=goal_model,
        params_of=params_of,
        source=data["source"],
        views=views,
        size=data["size"],
        width=width,
    )
