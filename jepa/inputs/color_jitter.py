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
    brightness, contrast, saturation, hue, less = factors.T[..., None, None]
    level = gray(mean.T[..., None, None])
    colors = apply_jitter(split_rgb(patches), level, brightness, contrast, saturation)
    colors = turn_hue(colors, hue)
    grays = gray(colors)
    return standardize(join_rgb([c + less * (grays - c) for c in colors]))


def turn_hue(colors, turns):
    """Red, green and blue with hue shifted by `turns` of the color circle, as in HSV."""
    red, green, blue = colors
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(chroma > 0, chroma, 1)
    sector = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )

    def channel(start):
        """A trapezoid over the six sectors of the circle."""
        place = start + sector + 6 * turns
        place = place - 6 * jnp.floor(
            place / 6
        )  # jnp.mod takes ten times as long on CPU
        return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return [channel(start) for start in (5, 3, 1)]


def standardize_clips(patches, factors):
    """All uint8 tubelets of clips -> the network's float32 input, both [B, N, D].

    factors: what `draw_factors` returns; None changes no colors. The mean gray of a clip
    sets its contrast.
    """
    if factors is None:
        return standardize(patches)
    colors = split_rgb(patches)
    mean = gray(colors).mean((1, 2), keepdims=True)
    return standardize(
        join_rgb(apply_jitter(colors, mean, *factors.T[..., None, None]))
    )


def split_rgb(patches):
    """uint8 tubelets [B, n, D] -> red, green and blue in 0..1, float32 [B, n, D / 3] each.

    Apart they take whole vectors of a CPU; three channels side by side take a fifth.
    """
    x = patches.reshape(*patches.shape[:2], -1, 3)
    return [x[..., i].astype(jnp.float32) / 255 for i in range(3)]


def join_rgb(colors):
    """Red, green and blue in 0..1 [B, n, P] -> tubelets in 0..255 [B, n, 3 P]."""
    x = jnp.stack(colors, -1)
    return 255 * x.reshape(*x.shape[:2], -1)


def gray(colors):
    """Luma of red, green and blue."""
    return sum(weight * color for weight, color in zip(LUMA, colors, strict=True))


def apply_jitter(colors, mean, brightness, contrast, saturation):
    """Red, green and blue [B, n, P] after brightness, contrast and saturation, in this order.

    mean: gray of the clips before, [B, 1, 1]. Contrast scales the distance from it,
    saturation that from each pixel's own gray.
    """
    mean = mean * brightness
    colors = [jnp.clip(c * brightness, 0, 1) for c in colors]
    colors = [jnp.clip(mean + (c - mean) * contrast, 0, 1) for c in colors]
    grays = gray(colors)
    return [jnp.clip(grays + (c - grays) * saturation, 0, 1) for c in colors]
