"""Planning in the world model in place of an actor: an objective for the planners of core.

The cost of a plan is minus the sum of predicted rewards, each weighted by the probability
times discount that the episode still goes on there.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.agents import action_distributions
from core.base.names import choose as choose_by_name
from core.nn import distributions, row_keys
from core.planning.categorical import Choices
from core.planning.planners import DISCRETE, PLANNERS
from core.planning.plans import PlanSpace, make_space
from core.section import Section
from dreamer.rssm import Latent
from dreamer.world_model import WorldModel

EMPTY: Mapping[str, Any] = {}


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
    kind: str,
    horizon: int,
    candidates: int,
    best: int,
    rounds: int,
    explore: float,
    cem: Mapping[str, Any] = EMPTY,
    icem: Mapping[str, Any] = EMPTY,
    mppi: Mapping[str, Any] = EMPTY,
    gradient: Mapping[str, Any] = EMPTY,
    categorical: Mapping[str, Any] = EMPTY,
):
    """choose(params, latent, key) -> actions [E, A]: the first of the best plan found.

    explore: standard deviation of noise added to a real action, or the chance of a random
    discrete one, so that what is collected differs. The other arguments are those of
    core/planning.

    Args:
      kind: of core/planning/planners.py.
      candidates, best, rounds: of all planners but "gradient", which has its own.
      cem, icem, mppi, gradient, categorical: further settings of each.

    Raises ValueError for wrong settings, and for actions that the planner cannot choose.
    """
    make = choose_by_name([kind], dict(PLANNERS) | dict(DISCRETE), "planner")[kind]
    own = {
        "cem": cem,
        "icem": icem,
        "mppi": mppi,
        "gradient": gradient,
        "categorical": categorical,
    }
    shared = {"candidates": candidates, "best": best, "rounds": rounds}
    planner = Section(own[kind], f"planner.{kind}").into(
        make,
        objective=ImaginedReturn(model),
        space=plan_space(model, kind),
        horizon=horizon,
        **({} if kind == "gradient" else shared),
    )

    def choose(params, latent: Latent, key):
        action = planner.plan(params, latent, key).actions[:, 0]
        now = row_keys.fold(key, 0)
        if kind in DISCRETE:
            return vary_classes(model, action, now, explore)
        noise = row_keys.sample(jax.random.normal, now, action.shape)
        return jnp.clip(action + explore * noise, -1, 1)

    return choose


def plan_space(model: WorldModel, kind: str) -> PlanSpace | Choices:
    """The actions of plans. Raises ValueError if the planner cannot choose them."""
    for name, space in model.actions:
        if space.is_discrete and kind not in DISCRETE:
            raise ValueError(
                f"behavior {kind!r} plans with real actions, but {name!r} is discrete; "
                "use 'categorical' or 'actor'"
            )
        if kind in DISCRETE and not space.is_discrete:
            raise ValueError(
                f"behavior {kind!r} plans with discrete actions, but {name!r} is real; "
                f"use {', '.join(PLANNERS)} or actor"
            )
    if kind in DISCRETE:
        sizes = ([s.classes] * math.prod(s.shape) for _, s in model.actions)
        return Choices(tuple(itertools.chain(*sizes)))
    high = np.ones(model.rssm.action)
    return make_space(-high, high)


def vary_classes(model: WorldModel, action, key, chance: float):
    """Action vectors [E, A], in which a random class takes the place of each by a chance."""
    flat = jnp.zeros_like(action)
    other = action_distributions.sample(
        model.actions, flat, row_keys.fold(key, 0), unimix=1.0
    )
    drawn = row_keys.sample(jax.random.uniform, row_keys.fold(key, 1), (len(action), 1))
    return jnp.where(drawn < chance, other, action)
