"""Planning with V-JEPA 2-AC: the energy of plans towards a goal image.

arXiv 2506.09985, section 3.2: mean absolute error between the features that are predicted
after the last action and those of the goal.
"""

import functools

import jax.numpy as jnp
import numpy as np

from core.planning.goals import GoalModel


class Energy:
    """core.planning.objective.Objective of a predictor in frozen features.

    params: {"encoder", "predictor"}. A context has image uint8 [B, n, V, h, w, 3], goal
    uint8 [B, V, h, w, 3], action [B, n - 1, A] and state [B, n, S]. The state of steps to
    come is the last one that is known.
    """

    def __init__(self, networks, to_model, window: int):
        """to_model: blocks of actions -> the model's. window: as of `Networks.roll`."""
        self.networks, self.to_model, self.window = networks, to_model, window

    def encode(self, params, context):
        """Features of the frames and of the goal, with what was done between the frames."""
        encode = functools.partial(self.networks.encode, params["encoder"])
        known = {name: context[name] for name in ("action", "state")}
        goal = encode(context["goal"][:, None])[:, 0]
        return {"features": encode(context["image"]), "goal": goal, **known}

    def roll(self, params, start, plans):
        """Features after each block of plans [B, S, H, width]: [B, S, H, V N, D]."""
        B, S, H, _ = plans.shape

        def repeated(x):
            return jnp.repeat(x, S, 0)

        done = repeated(start["action"])
        planned = self.to_model(plans).reshape(B * S, H, -1)
        state = repeated(start["state"])
        later = jnp.broadcast_to(state[:, -1:], (B * S, H - 1, state.shape[-1]))
        found = self.networks.roll(
            params["predictor"],
            repeated(start["features"]),
            jnp.concatenate([done, planned], 1),
            jnp.concatenate([state, later], 1),
            window=self.window,
        )
        return found.reshape(B, S, H, *found.shape[2:])

    def cost(self, params, start, plans, key):
        """float32 [B, S]."""
        last = self.roll(params, start, plans)[:, :, -1]
        return jnp.abs(last - start["goal"][:, None]).mean((2, 3))


def make_goal_model(
    networks,
    *,
    action: str,
    skip: int,
    width: int,
    size: int,
    images,
    states,
    window: int,
) -> GoalModel:
    """What planners need of the method.

    Args:
      action: kind of the model's actions, a name in jepa.worlds.robot_clips.ACTIONS.
      skip, width: environment steps of a block, numbers of an environment action.
      size, images, states: of the config's data. window: frames that a
        predicted step sees.

    Raises ValueError for poses, whose changes are no actions of an environment.
    """
    if action == "pose":
        raise ValueError(
            "data.action is 'pose', which no environment here takes; plans need concatenated "
            "or summed"
        )

    held = action == "summed"  # of the model's action only the mean counts

    def to_model(blocks):
        return blocks * skip if held else blocks

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

    def context(observed, blocks, goal):
        image = views(observed, "observation")
        B, n = image.shape[:2]
        state = jnp.zeros((B, n, 1))
        if states:
            known = [jnp.reshape(observed[k], (B, n, -1)) for k in states]
            state = jnp.concatenate(known, -1).astype(jnp.float32)
        if isinstance(blocks, np.ndarray) and not np.isfinite(state).all():
            raise ValueError("the observed state has values that are not finite")
        wanted = {name: x[:, None] for name, x in goal.items()}
        return {
            "image": image,
            "goal": views(wanted, "goal")[:, 0],
            "action": jnp.asarray(to_model(blocks), jnp.float32),
            "state": state,
        }

    objective = Energy(networks, to_model, window)

    def encode(params, frames):
        return networks.encode(params["encoder"], views(frames, "recording"))

    return GoalModel(
        objective=objective,
        context=context,
        encode=encode,
        roll=objective.roll,
        mean=np.zeros(width, np.float32),
        std=np.ones(width, np.float32),
        skip=skip,
        history=window,
        held=held,
    )
