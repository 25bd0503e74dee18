"""Distributions over named actions, from an actor's output vector: sample, mode, density.

Discrete actions are categorical, mixed with a share of the uniform distribution.
Continuous ones are normal around tanh of the mean, without squashing of the sample (arXiv
2301.04104, "actor learning"). `actions` are the action spaces; N actors, or any leading
axes.
"""

import itertools

import jax
import jax.numpy as jnp

from core.agents.spaces import Space, Spaces
from core.nn import distributions, row_keys

LEAST, MOST = 0.1, 1.0  # standard deviation of a continuous action


def output_width(space: Space) -> int:
    """Numbers of an actor's output for one action: logits, or mean and deviation."""
    return space.width * (1 if space.is_discrete else 2)


def width(actions: Spaces) -> int:
    """Length of an actor's output vector."""
    return sum(output_width(space) for _, space in actions)


def tensor_ends(actions: Spaces) -> tuple[int, ...]:
    """Columns where one tensor of the published actor's output ends and another begins.

    It has one linear layer for the logits of each discrete action, and one each for the
    mean and the deviation of a continuous one.
    """
    widths = []
    for _, space in actions:
        widths += [space.width] * (1 if space.is_discrete else 2)
    return tuple(itertools.accumulate(widths[:-1]))


def split_by_action(actions: Spaces, x, widths) -> list[jax.Array]:
    """x [..., sum of widths(space)] -> one array [..., widths(space)] per action."""
    ends, end = [], 0
    for _, space in actions[:-1]:
        end += widths(space)
        ends.append(end)
    return jnp.split(x, ends, -1)


def split_outputs(actions: Spaces, out) -> list[jax.Array]:
    """The part of an actor's output that belongs to each action."""
    return split_by_action(actions, out, output_width)


def split_vector(actions: Spaces, vector) -> list[jax.Array]:
    """The part of an action vector [..., A] that belongs to each action."""
    return split_by_action(actions, vector, lambda space: space.width)


def by_class(space: Space, part):
    """[..., n classes] -> [..., n, classes]."""
    return part.reshape(*part.shape[:-1], -1, space.classes)


def gaussian(part):
    """Mean and standard deviation of a continuous action, from its part of the output."""
    mean, std = jnp.split(part, 2, -1)
    return jnp.tanh(mean), LEAST + (MOST - LEAST) * jax.nn.sigmoid(std + 2)


def sample(actions: Spaces, out, key, *, unimix: float):
    """Sample actions: output [N, n] -> action vectors [N, A], discrete ones one-hot.

    key: one, or one for each row [N] (core/nn/row_keys.py). unimix: share of the uniform
    distribution.
    """
    parts = []
    pairs = zip(actions, split_outputs(actions, out), strict=True)
    for i, ((_, space), part) in enumerate(pairs):
        own = row_keys.fold(key, i)
        if space.is_discrete:
            logp = distributions.unimix(by_class(space, part), unimix)
            gumbel = row_keys.sample(jax.random.gumbel, own, logp.shape)
            best = jnp.argmax(logp + gumbel, -1)
            sampled = jax.nn.one_hot(best, space.classes).reshape(part.shape)
        else:
            mean, std = gaussian(part)
            sampled = mean + std * row_keys.sample(jax.random.normal, own, mean.shape)
        parts.append(sampled)
    return jnp.concatenate(parts, -1)


def mode(actions: Spaces, out):
    """The action vector [..., A] of the highest density under the output [..., n]."""
    parts = []
    for (_, space), part in zip(actions, split_outputs(actions, out), strict=True):
        if space.is_discrete:
            best = jnp.argmax(by_class(space, part), -1)
            parts.append(jax.nn.one_hot(best, space.classes).reshape(part.shape))
        else:
            parts.append(gaussian(part)[0])
    return jnp.concatenate(parts, -1)


def log_prob_and_entropy(actions: Spaces, out, vector, *, unimix: float):
    """Log-probability of vectors [..., A] under outputs [..., n], and entropy: [...] each."""
    logp = entropy = 0.0
    outputs, taken = split_outputs(actions, out), split_vector(actions, vector)
    for (_, space), part, x in zip(actions, outputs, taken, strict=True):
        if space.is_discrete:
            all_logp = distributions.unimix(by_class(space, part), unimix)
            logp += (all_logp * by_class(space, x)).sum((-2, -1))
            entropy += distributions.entropy(all_logp).sum(-1)
        else:
            mean, std = gaussian(part)
            logp += jax.scipy.stats.norm.logpdf(x, mean, std).sum(-1)
            entropy += (0.5 * jnp.log(2 * jnp.pi * jnp.e) + jnp.log(std)).sum(-1)
    return logp, entropy


def as_actions(actions: Spaces, vector) -> dict[str, jax.Array]:
    """Action vectors [..., A] as environments take them: integers, or reals, by name."""
    found = {}
    for (name, space), part in zip(actions, split_vector(actions, vector), strict=True):
        shape = (*part.shape[:-1], *space.shape)
        if space.is_discrete:
            found[name] = jnp.argmax(by_class(space, part), -1).reshape(shape)
        else:
            found[name] = part.reshape(shape)
    return found
