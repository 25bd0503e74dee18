"""Planning in the world model in place of an actor: an objective for the planners of core.

The cost of a plan is minus the sum of predicted rewards, each weighted by the probability
times discount that the episode still goes on there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.nn import distributions, row_keys
from core.planning.cem import make_cem
from dreamer.rssm import Latent
from dreamer.world_model import WorldModel


class ImaginedReturn(NamedTuple):
    """A core.planning.objective.Objective: context and start are the states of B worlds."""

    model: WorldModel

    def encode(self, params, context: Latent) -> Latent:
        return context

    def cost(self, params, start: Latent, plans, key):
        """Each candidate is rolled out by one sample of the prior."""
        model, (B, S, H, A) = self.model, plans.shape
        if key.ndim:
            key = jax.vmap(lambda k: jax.random.split(k, S))(key).reshape(B * S)
        actions = plans.transpose(2, 0, 1, 3).reshape(H, B * S, A)
        states = model.rssm.apply(
            {"params": params["rssm"]},
            jax.tree.map(lambda x: jnp.repeat(x, S, 0), start),
            actions,
            key,
            method="follow",
        )
        x = states.features()
        reward = model.reward.apply({"params": params["reward"]}, x)
        cont = model.cont.apply({"params": params["continue"]}, x)
        alive = jnp.cumprod(jax.nn.sigmoid(cont), 0)
        alive = jnp.concatenate([jnp.ones_like(alive[:1]), alive[:-1]])
        returns = (alive * distributions.two_hot_mean(reward)).sum(0)
        return -returns.reshape(B, S)


def make_planning_chooser(
    model: WorldModel,
    *,
    horizon: int,
    candidates: int,
    best: int,
    rounds: int,
    explore: float,
):
    """choose(params, latent, key) -> actions [E, A]: the first of the best plan found.

    explore: standard deviation of noise added to the action, so that what is collected
    differs. The other arguments are those of core/planning/cem.py. Raises ValueError for
    discrete actions.
    """
    for name, space in model.actions:
        if space.is_discrete:
            raise ValueError(
                f"behavior 'cem' plans with real actions, but {name!r} is discrete; "
                "use 'actor'"
            )
    high = np.ones(model.rssm.action)
    plan = make_cem(
        ImaginedReturn(model),
        low=-high,
        high=high,
        horizon=horizon,
        candidates=candidates,
        best=best,
        rounds=rounds,
    )

    def choose(params, latent: Latent, key):
        action = plan(params, latent, key)[:, 0]
        noise = row_keys.sample(jax.random.normal, row_keys.fold(key, 0), action.shape)
        return jnp.clip(action + explore * noise, -1, 1)

    return choose
