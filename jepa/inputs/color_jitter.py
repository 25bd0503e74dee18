"""Color jitter of whole clips, on the device and inside the step.

Each factor is drawn once per clip from the step's key, so all frames change alike, and so
do context and target tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa.nets.model import standardize

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Jitter(NamedTuple):
    """Factors are uniform in [1 - x, 1 + x] for each field x; 0 changes nothing."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0


NO_JITTER = Jitter()


class ViewJitter(NamedTuple):
    """Colors of the views of a clip, each view by itself; 0 everywhere changes nothing.

    brightness, contrast, saturation: as of Jitter. hue: turns of the color circle, uniform
    in [-hue, hue]. share: of the views that these four change. gray: share of the views
    that lose their colors.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    share: float = 0.8
    gray: float = 0.2


def draw_factors(jitter: Jitter, count: int, key):
    """Factors of `count` clips, float32 [count, 3], or None if all fields are 0.

    Raises ValueError for fields outside [0, 1].
    """
    check_shares(jitter)
    if not any(jitter):
        return None
    factors = jax.random.uniform(key, (count, 3), minval=-1.0, maxval=1.0)
    return 1 + factors * jnp.array(jitter)


def check_shares(jitter) -> None:
    """Raise ValueError for fields outside [0, 1]."""
    for name, value in jitter._asdict().items():
        if not 0 <= value <= 1:
            raise ValueError(f"colour.{name} is {value}; expected 0 to 1")


def draw_view_factors(jitter: ViewJitter, shape: tuple[int, ...], key):
    """Brightness, contrast, saturation, hue and gray of views: float32 [*shape, 5].

    (1, 1, 1, 0, 0) changes nothing. Raises ValueError for fields outside [0, 1].
    """
    check_shares(jitter)
    spans = jnp.array((*jitter[:4], 0.0))
    keys = jax.random.split(key, 3)
    factors = jax.random.uniform(keys[0], (*shape, 5), minval=-1.0, maxval=1.0) * spans
    factors *= jax.random.bernoulli(keys[1], jitter.share, (*shape, 1))
    gray = jax.random.bernoulli(keys[2], jitter.gray, shape)
    factors += jnp.array((1.0, 1.0, 1.0, 0.0, 0.0))
    return factors.at[..., 4].set(gray)


def standardize_views(patches, mean, factors):
    """uint8 patches of views -> the network's float32 input, both [N, n, p].

    mean: mean color of each whole view in 0..1, [N, 3]; factors: as of `draw_view_factors`,
    [N, 5]. The order is brightness, contrast, saturation, hue, gray; torchvision draws the
    order of the first four.
    """
    brightness, contrast, saturation, hue, less = factors.T[..., None, None, None]
    x = apply_jitter(
        as_rgb(patches), gray(mean)[:, None, None], brightness, contrast, saturation
    )
    x = turn_hue(x, hue)
    x = x + less * (gray(x) - x)
    return standardize(255 * x.reshape(patches.shape))


def turn_hue(x, turns):
    """RGB [..., 3] in 0..1 with hue shifted by `turns` of the color circle, as in HSV."""
    red, green, blue = jnp.moveaxis(x, -1, 0)
    value, chroma = x.max(-1), x.max(-1) - x.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1)
    sector = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # Each channel is a trapezoid over the six sectors of the circle.
    place = jnp.stack([5 + sector, 3 + sector, 1 + sector], -1) + 6 * turns
    place = jnp.mod(place, 6)
    slope = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    return value[..., None] - chroma[..., None] * slope


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
