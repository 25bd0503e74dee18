"""Batch norm as pure functions: statistics of all rows of all devices, running ones apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.parallel.collectives import count_rows, mean_over_rows


class Moments(NamedTuple):
    """Statistics of batch norm, float32 [D] each."""

    mean: jax.Array
    var: jax.Array


def first_moments(width: int) -> Moments:
    """Running statistics before the first batch."""
    return Moments(jnp.zeros(width), jnp.ones(width))


def batch_moments(x) -> Moments:
    """Of all rows [..., D] of all devices; `var` divides by their number."""
    x = x.astype(jnp.float32)
    lead = tuple(range(x.ndim - 1))
    mean = mean_over_rows(x.mean(lead))
    return Moments(mean, mean_over_rows(jnp.square(x - mean).mean(lead)))


def running_moments(old: Moments, x, rate: float = 0.1) -> Moments:
    """Running statistics after the batch x [..., D], without gradient.

    The variance of the batch divides by its rows less one, as PyTorch's does.
    """
    mean, var = batch_moments(jax.lax.stop_gradient(x))
    rows = count_rows(x.size // x.shape[-1])
    found = Moments(mean, var * rows / max(rows - 1, 1))
    return jax.tree.map(lambda a, b: (1 - rate) * a + rate * b, old, found)


def normalize_by(x, moments: Moments, *, eps: float):
    """Rows [..., D] less the mean, over the deviation, in float32."""
    mean, var = moments
    return (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + eps)
