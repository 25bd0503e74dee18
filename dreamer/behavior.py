"""Actor and critic that learn in imagination: heads, losses, normalization of returns.

arXiv 2301.04104, "critic learning" and "actor learning". Time is the first axis; returns
and losses are float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.agents import action_distributions
from core.agents.returns import lambda_returns, replay_returns
from core.agents.spaces import Spaces
from core.nn import distributions, row_keys
from core.parallel.collectives import all_gather_rows, constrain
from dreamer.layers import Head
from dreamer.rssm import Latent
from dreamer.world_model import GAMMA, WorldModel

LAMBDA = 0.95
ENTROPY = 3e-4  # weight of the actor's entropy
RANGE_RATE = 0.01  # of the moving percentiles of returns
REPLAY_SCALE = 0.3  # weight of the critic's loss on replayed steps


class Behavior(NamedTuple):
    """The heads, without their weights, and how they learn.

    unimix: share of the uniform distribution in discrete actions.
    horizon: imagined steps, H.
    true_start: whether the first weight of an imagined trajectory is 1 - is_terminal of
      the replay, as in the public code of April 2024, or the continue head's prediction.
    last: imagination starts at this many last steps of each sequence; 0: at all of them,
      as published.
    """

    actor: Head
    critic: Head
    unimix: float
    horizon: int
    true_start: bool
    last: int


class Range(NamedTuple):
    """Moving averages of the 5th and the 95th percentile of returns."""

    low: jax.Array
    high: jax.Array


def make_behavior(
    actions: Spaces,
    *,
    units: int,
    unimix: float = 0.01,
    horizon: int = 15,
    true_start: bool = False,
    last: int = 0,
    dtype=jnp.float32,
) -> Behavior:
    """Heads of `units` wide layers for the actions of a world model."""
    actor = Head(
        3, units, (action_distributions.width(actions),), scale=0.01, dtype=dtype
    )
    critic = Head(3, units, (distributions.BINS,), scale=0.0, dtype=dtype)
    return Behavior(actor, critic, unimix, horizon, true_start, last)


def init(behavior: Behavior, features: int, key) -> dict:
    """Boxed parameters {"actor": ..., "critic": ...} of heads that read `features` numbers."""
    keys, x = jax.random.split(key), jnp.zeros((1, features))
    heads = {"actor": behavior.actor, "critic": behavior.critic}
    pairs = zip(heads.items(), keys, strict=True)
    return {name: head.init(k, x)["params"] for (name, head), k in pairs}


def make_actor_chooser(model: WorldModel, behavior: Behavior):
    """choose(params, latent, key) -> actions [N, A] sampled from the actor."""

    def choose(params, latent, key):
        out = behavior.actor.apply({"params": params["actor"]}, latent.features())
        return action_distributions.sample(
            model.actions, out, key, unimix=behavior.unimix
        )

    return choose


def no_range() -> Range:
    """The range before the first update."""
    return Range(jnp.zeros(()), jnp.zeros(()))


def imagine(model: WorldModel, behavior: Behavior, params, start: Latent, key):
    """Imagine H steps from N states with the actor's actions.

    Args:
      start: the states [N, ...].
      key: one, or one for each state [N] (core/nn/row_keys.py).

    Returns:
      features [H + 1, N, F], those of the start first, and the actions [H + 1, N, A]
      chosen there; both without gradient.
    """
    params = jax.lax.stop_gradient(params)
    start = jax.lax.stop_gradient(start)
    choose = functools.partial(make_actor_chooser(model, behavior), params)
    rssm = {"params": params["rssm"]}
    given = start, choose, row_keys.fold(key, 0), behavior.horizon
    states, actions = model.rssm.apply(rssm, *given, method="imagine")
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, states)
    last = choose(jax.tree.map(lambda x: x[-1], states), row_keys.fold(key, 1))
    actions = jnp.concatenate([actions, last[None]])
    return constrain(states.features(), None, "batch", None), actions


def update_range(seen: Range, returns) -> Range:
    """The moving percentiles after an update with imagined returns [H, N] per device."""
    returns = all_gather_rows(returns, axis=1)
    low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
    mix = lambda old, new: (1 - RANGE_RATE) * old + RANGE_RATE * new  # noqa: E731
    return Range(mix(seen.low, low), mix(seen.high, high))


def losses(model, behavior, params, slow, seen: Range, states, batch, key):
    """Losses of actor and critic.

    Args:
      params: of all networks, by name.
      slow: moving average of the critic's weights.
      seen: the range before this update.
      states: posterior states of the world model [T, B, ...], with their gradient.
      batch: reward, is_last, is_terminal [B, T].
      key: one, or one for each sequence [B].

    Returns:
      losses {"actor", "critic": [H, N], "replay": [T - 1, B]}, the new range, and metrics
      by name.
    """
    fixed = jax.lax.stop_gradient
    lead = {k: batch[k].swapaxes(0, 1) for k in ("reward", "is_last", "is_terminal")}
    states, lead = jax.tree.map(lambda x: x[-behavior.last :], (states, lead))
    T, B = states.deter.shape[:2]
    start = jax.tree.map(lambda x: x.reshape(T * B, *x.shape[2:]), states)
    key = row_keys.step_keys(key, T) if key.ndim else key
    features, actions = imagine(model, behavior, params, start, key)
    features = fixed(features)

    frozen = fixed(params)
    apply = lambda head, weights, x: head.apply({"params": weights}, x)  # noqa: E731
    reward = distributions.two_hot_mean(apply(model.reward, frozen["reward"], features))
    cont = jax.nn.sigmoid(apply(model.cont, frozen["continue"], features))
    if behavior.true_start:
        # Without the discount: the first weight is 1 unless the episode is over.
        alive = 1 - lead["is_terminal"].astype(jnp.float32)
        cont = cont.at[0].set(alive.reshape(-1))
    critic = apply(behavior.critic, params["critic"], features)
    value = fixed(distributions.two_hot_mean(critic))
    slow_value = distributions.two_hot_mean(apply(behavior.critic, slow, features))
    returns = lambda_returns(reward, cont, value, lam=LAMBDA)
    weight = jnp.cumprod(cont[:-1], 0)
    seen = update_range(seen, returns)
    scale = jnp.maximum(1.0, seen.high - seen.low)

    out = apply(behavior.actor, params["actor"], features[:-1])
    logp, entropy = action_distributions.log_prob_and_entropy(
        model.actions, out, actions[:-1], unimix=behavior.unimix
    )
    advantage = (returns - value[:-1]) / scale
    found = {
        "actor": weight * -(logp * advantage + ENTROPY * entropy),
        "critic": weight * critic_loss(critic[:-1], returns, slow_value[:-1]),
    }

    x = states.features()  # the only path by which values train the representation
    critic = apply(behavior.critic, params["critic"], x)
    slow_value = distributions.two_hot_mean(apply(behavior.critic, slow, fixed(x)))
    targets = replay_returns(
        lead["reward"],
        lead["is_last"],
        lead["is_terminal"],
        returns[0].reshape(T, B),
        lam=LAMBDA,
        gamma=GAMMA,
    )
    live = 1 - lead["is_last"][:-1].astype(jnp.float32)
    found["replay"] = live * critic_loss(critic[:-1], targets, slow_value[:-1])
    metrics = {
        "return": returns.mean(),
        "return_range": seen.high - seen.low,
        "value": value.mean(),
        "imagined_reward": reward[1:].mean(),
        "imagined_continue": cont[1:].mean(),
        "advantage_abs": jnp.abs(advantage).mean(),
        "entropy_actor": entropy.mean(),
    }
    return found, seen, metrics


def critic_loss(logits, target, slow_value):
    """Cross-entropy to the return, and to the slow critic, which regularizes it: [...]."""
    return distributions.two_hot_loss(logits, target) + distributions.two_hot_loss(
        logits, slow_value
    )
