"""What an actor's output means: distributions over named actions, drawn and judged.

Discrete actions are categorical, mixed with a little of the uniform; continuous ones
normal around tanh of the mean, not squashed (arXiv 2301.04104, "actor learning").
"""

import jax
import jax.numpy as jnp

from core.nn import distributions, row_keys
from dreamer.rssm import noise

LEAST, MOST = 0.1, 1.0  # deviation of a continuous action


def width(actions) -> int:
    """Numbers that the actor has to give."""
    return sum(s.width * (1 if s.is_discrete else 2) for _, s in actions)


def cut(actions, x, *, numbers):
    """Parts [..., n] of the last axis of x, n being numbers(space)."""
    ends, at = [], 0
    for _, space in actions[:-1]:
        at += numbers(space)
        ends.append(at)
    return jnp.split(x, ends, -1)


def outputs(actions, out):
    """The part of the actor's output that belongs to each action."""
    return cut(actions, out, numbers=lambda s: s.width * (1 if s.is_discrete else 2))


def classes(space, part):
    """[..., n] -> [..., arrays, classes]."""
    return part.reshape(*part.shape[:-1], -1, space.classes)


def gaussian(part):
    """Mean and deviation of a continuous action."""
    mean, std = jnp.split(part, 2, -1)
    return jnp.tanh(mean), LEAST + (MOST - LEAST) * jax.nn.sigmoid(std + 2)


def sample(actions, out, key, *, unimix):
    """Draw actions: output [N, n] -> the vector that a model reads [N, A].

    Keys are as in core/nn/row_keys.py.
    """
    parts = []
    given = zip(actions, outputs(actions, out), strict=True)
    for i, ((_, space), part) in enumerate(given):
        own = row_keys.fold(key, i)
        if space.is_discrete:
            logp = distributions.unimix(classes(space, part), unimix)
            best = jnp.argmax(logp + noise(own, logp.shape), -1)
            drawn = jax.nn.one_hot(best, space.classes).reshape(part.shape)
        else:
            mean, std = gaussian(part)
            drawn = mean + std * row_keys.sample(jax.random.normal, own, mean.shape)
        parts.append(drawn)
    return jnp.concatenate(parts, -1)


def likeliest(actions, out):
    """The action [..., A] of the highest density under the actor's output."""
    parts = []
    for (_, space), part in zip(actions, outputs(actions, out), strict=True):
        if space.is_discrete:
            best = jnp.argmax(classes(space, part), -1)
            parts.append(jax.nn.one_hot(best, space.classes).reshape(part.shape))
        else:
            parts.append(gaussian(part)[0])
    return jnp.concatenate(parts, -1)


def judge(actions, out, vector, *, unimix):
    """Log-probability and entropy [...] of actions [..., A] under the output [..., n]."""
    logp = entropy = 0.0
    drawn = cut(actions, vector, numbers=lambda s: s.width)
    pairs = zip(actions, outputs(actions, out), drawn, strict=True)
    for (_, space), part, x in pairs:
        if space.is_discrete:
            all_logp = distributions.unimix(classes(space, part), unimix)
            logp += (all_logp * classes(space, x)).sum((-2, -1))
            entropy += distributions.entropy(all_logp).sum(-1)
        else:
            mean, std = gaussian(part)
            logp += jax.scipy.stats.norm.logpdf(x, mean, std).sum(-1)
            entropy += (0.5 * jnp.log(2 * jnp.pi * jnp.e) + jnp.log(std)).sum(-1)
    return logp, entropy


def as_actions(actions, vector) -> dict:
    """The vector as an environment takes it: whole numbers, or reals in -1..1, by name."""
    found = {}
    parts = cut(actions, vector, numbers=lambda s: s.width)
    for (name, space), part in zip(actions, parts, strict=True):
        shape = (*part.shape[:-1], *space.shape)
        if space.is_discrete:
            found[name] = jnp.argmax(classes(space, part), -1).reshape(shape)
        else:
            found[name] = part.reshape(shape)
    return found
