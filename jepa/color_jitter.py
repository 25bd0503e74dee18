"""Colour jitter of whole clips, on the device and inside the step.

Clips come as bytes, and every factor is drawn once for a clip, from the step's key: all
frames change alike, and so do what is seen and what is to be predicted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa.model import standardize

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Jitter(NamedTuple):
    """Factors are uniform from 1 - x to 1 + x; 0 leaves a clip as it is."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0


NO_JITTER = Jitter()


def draw_factors(jitter: Jitter, count: int, key):
    """Factors of `count` clips, [count, 3]; None where nothing is to change."""
    for name, value in jitter._asdict().items():
        if not 0 <= value <= 1:
            raise ValueError(f"colour.{name} is {value}; expected 0 to 1")
    if not any(jitter):
        return None
    factors = jax.random.uniform(key, (count, 3), minval=-1.0, maxval=1.0)
    return 1 + factors * jnp.array(jitter)


def make_look(factors, patches) -> Callable:
    """What makes the network's input of uint8 tubelets of these clips [B, N, D].

    It takes any of their tubelets, [B, n, D] -> float32 [B, n, D]. `factors` are those
    of `draw_factors`.
    """
    if factors is None:
        return standardize
    mean = gray(as_colours(patches)).mean((1, 2), keepdims=True)
    factors = factors.T[..., None, None, None]

    def look(some):
        x = discoloured(as_colours(some), mean, *factors)
        return standardize(255 * x.reshape(some.shape))

    return look


def as_colours(patches):
    """uint8 [B, n, D] -> RGB in 0 to 1, [B, n, D / 3, 3]."""
    return patches.reshape(*patches.shape[:2], -1, 3).astype(jnp.float32) / 255


def gray(x):
    return (x * jnp.array(LUMA)).sum(-1, keepdims=True)


def discoloured(x, mean, brightness, contrast, saturation):
    """RGB [B, n, P, 3], in this order: brighter, away from the clip's mean gray before
    that, and away from each pixel's gray."""
    x = jnp.clip(x * brightness, 0, 1)
    mean = mean * brightness
    x = jnp.clip(mean + (x - mean) * contrast, 0, 1)
    grays = gray(x)
    return jnp.clip(grays + (x - grays) * saturation, 0, 1)
