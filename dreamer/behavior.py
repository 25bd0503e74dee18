"""Actor and critic that learn in imagination: returns, losses, normalisation.

arXiv 2301.04104, "critic learning" and "actor learning". Sequences have the time in
front; returns and losses are float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.agents import action_distributions
from core.nn import distributions, row_keys
from core.parallel.collectives import all_gather_rows, constrain
from dreamer.layers import Head
from dreamer.rssm import Latent
from dreamer.world_model import GAMMA, WorldModel

LAMBDA = 0.95
ENTROPY = 3e-4
RANGE_RATE = 0.01
REPLAY_SCALE = 0.3


class Behavior(NamedTuple):
    """The heads, without their weights, and how they learn.

    true_start: whether a dream begins with the replay's word on whether the episode goes
    on, as the code of April 2024 has it, in place of the continue head's.
    last: at how many last steps of each sequence dreams begin; 0: at all, as published.
    """

    actor: Head
    critic: Head
    unimix: float  # of discrete actions
    horizon: int
    true_start: bool
    last: int


class Range(NamedTuple):
    """Moving averages of the 5th and the 95th percentile of returns."""

    low: jax.Array
    high: jax.Array


def make_behavior(
    actions,
    *,
    units,
    unimix=0.01,
    horizon=15,
    true_start=False,
    last=0,
    dtype=jnp.float32,
):
    """Heads for the actions of a world model."""
    actor = Head(
        3, units, (action_distributions.width(actions),), scale=0.01, dtype=dtype
    )
    critic = Head(3, units, (distributions.BINS,), scale=0.0, dtype=dtype)
    return Behavior(actor, critic, unimix, horizon, true_start, last)


def init(behavior: Behavior, features: int, key) -> dict:
    """Boxed parameters by network."""
    keys, x = jax.random.split(key), jnp.zeros((1, features))
    heads = {"actor": behavior.actor, "critic": behavior.critic}
    pairs = zip(heads.items(), keys, strict=True)
    return {name: head.init(k, x)["params"] for (name, head), k in pairs}


def make_chooser(model: WorldModel, behavior: Behavior):
    """choose(params, latent, key) -> actions [N, A] drawn from the actor."""

    def choose(params, latent, key):
        out = behavior.actor.apply({"params": params["actor"]}, latent.features())
        return action_distributions.sample(
            model.actions, out, key, unimix=behavior.unimix
        )

    return choose


def no_range() -> Range:
    return Range(jnp.zeros(()), jnp.zeros(()))


def imagine(model: WorldModel, behavior: Behavior, params, start: Latent, key):
    """Dream on from N states by the actor; keys are as in core/nn/row_keys.py.

    Returns:
      features [H + 1, N, F], those of the start first, and the actions [H + 1, N, A]
      chosen there; both without gradient.
    """
    params = jax.lax.stop_gradient(params)
    start = jax.lax.stop_gradient(start)
    choose = functools.partial(make_chooser(model, behavior), params)
    rssm = {"params": params["rssm"]}
    given = start, choose, row_keys.fold(key, 0), behavior.horizon
    states, actions = model.rssm.apply(rssm, *given, method="imagine")
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, states)
    last = choose(jax.tree.map(lambda x: x[-1], states), row_keys.fold(key, 1))
    actions = jnp.concatenate([actions, last[None]])
    return constrain(states.features(), None, "batch", None), actions


def lambda_returns(reward, cont, value):
    """R_t of imagined steps 0..H-1 from heads at 0..H: [H + 1, N] x3 -> [H, N].

    What happens in the step from t to t + 1 is told at t + 1.
    """

    def back(future, x):
        reward, cont, value = x
        now = reward + cont * ((1 - LAMBDA) * value + LAMBDA * future)
        return now, now

    steps = (reward[1:], cont[1:], value[1:])
    return jax.lax.scan(back, value[-1], steps, reverse=True)[1]


def replay_returns(reward, last, terminal, bootstrap):
    """Q_t of real steps 0..T-2: [T, B] each -> [T - 1, B].

    bootstrap: the imagined return of each step; it alone follows an episode's last step.
    """
    lam = LAMBDA * (1 - last.astype(jnp.float32))
    live = GAMMA * (1 - terminal.astype(jnp.float32))

    def back(future, x):
        reward, lam, live, bootstrap = x
        now = reward + live * ((1 - lam) * bootstrap + lam * future)
        return now, now

    steps = (reward[1:], lam[1:], live[1:], bootstrap[1:])
    return jax.lax.scan(back, bootstrap[-1], steps, reverse=True)[1]


def update_range(seen: Range, returns) -> Range:
    """One step of the moving percentiles over all imagined returns [H, N]."""
    returns = all_gather_rows(returns, axis=1)
    low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
    mix = lambda old, new: (1 - RANGE_RATE) * old + RANGE_RATE * new  # noqa: E731
    return Range(mix(seen.low, low), mix(seen.high, high))


def losses(model, behavior, params, slow, seen: Range, states, batch, key):
    """Losses of actor and critic {name: [...]}, the new range, and metrics.

    Args:
      slow: moving average of the critic's weights.
      states: what the world model has observed [T, B, ...], with its gradient.
      batch: reward, is_last, is_terminal [B, T].
      key: one, or one for each sequence [B].
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
        goes_on = GAMMA * (1 - lead["is_terminal"].astype(jnp.float32))
        cont = cont.at[0].set(goes_on.reshape(-1))
    critic = apply(behavior.critic, params["critic"], features)
    value = fixed(distributions.two_hot_mean(critic))
    slow_value = distributions.two_hot_mean(apply(behavior.critic, slow, features))
    returns = lambda_returns(reward, cont, value)
    weight = jnp.cumprod(cont[:-1], 0)
    seen = update_range(seen, returns)
    scale = jnp.maximum(1.0, seen.high - seen.low)

    out = apply(behavior.actor, params["actor"], features[:-1])
    logp, entropy = action_distributions.judge(
        model.actions, out, actions[:-1], unimix=behavior.unimix
    )
    advantage = (returns - value[:-1]) / scale
    found = {
        "actor": weight * -(logp * advantage + ENTROPY * entropy),
        "critic": weight * critic_loss(critic[:-1], returns, slow_value[:-1]),
    }

    x = states.features()  # the one way that values shape what is represented
    critic = apply(behavior.critic, params["critic"], x)
    slow_value = distributions.two_hot_mean(apply(behavior.critic, slow, fixed(x)))
    targets = replay_returns(
        lead["reward"],
        lead["is_last"],
        lead["is_terminal"],
        returns[0].reshape(T, B),
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
    """Cross-entropy to the return, and to the slow critic, which keeps it from drifting."""
    return distributions.two_hot_loss(logits, target) + distributions.two_hot_loss(
        logits, slow_value
    )
