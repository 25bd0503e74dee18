"""Color jitter of whole clips, on the device and inside the step.

Each factor is drawn once per clip from the step's key, so all frames change alike, and so
do context and target tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa.model import standardize

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Jitter(NamedTuple):
    """Factors are uniform in [1 - x, 1 + x] for each field x; 0 changes nothing."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0


NO_JITTER = Jitter()


def draw_factors(jitter: Jitter, count: int, key):
    """Factors of `count` clips, float32 [count, 3], or None if all fields are 0.

    Raises ValueError for fields outside [0, 1].
    """
    for name, value in jitter._asdict().items():
        if not 0 <= value <= 1:
            raise ValueError(f"colour.{name} is {value}; expected 0 to 1")
    if not any(jitter):
        return None
    factors = jax.random.uniform(key, (count, 3), minval=-1.0, maxval=1.0)
    return 1 + factors * jnp.array(jitter)


def standardize_clips(patches, factors):
    """All uint8 tubelets of clips -> the network's float32 input, both [B, N, D].

    factors: what `draw_factors` returns; None changes no colors. The mean gray of a clip
    sets its contrast.
    """
    if factors is None:
        return standardize(patches)
    x = as_rgb(patches)
    mean = gray(x).mean((1, 2), keepdims=True)
    x = apply_jitter(x, mean, *factors.T[..., None, None, None])
    return standardize(255 * x.reshape(patches.shape))


def as_rgb(patches):
    """uint8 tubelets [B, n, D] -> RGB in [0, 1], float32 [B, n, D / 3, 3]."""
    return patches.reshape(*patches.shape[:2], -1, 3).astype(jnp.float32) / 255


def gray(x):
    """RGB [..., 3] -> luma [..., 1]."""
    return (x * jnp.array(LUMA)).sum(-1, keepdims=True)


def apply_jitter(x, mean, brightness, contrast, saturation):
    """RGB [B, n, P, 3] after brightness, contrast and saturation, in this order.

    mean: gray of the clips before, [B, 1, 1, 1]. Contrast scales the distance from it,
    saturation that from each pixel's own gray.
    """
    x = jnp.clip(x * brightness, 0, 1)
    mean = mean * brightness
    x = jnp.clip(mean + (x - mean) * contrast, 0, 1)
    grays = gray(x)
    return jnp.clip(grays + (x - grays) * saturation, 0, 1)
