"""Converts planar pictures (core/data/decoding/planar.py) to RGB on the device, in jax."""

import jax.numpy as jnp

from core.data.decoding.planar import split_planes

# Red, green and blue of (brightness - 16, blue difference - 128, red difference - 128).
YUV_TO_RGB = (
    (1.164383, 0.0, 1.596027),
    (1.164383, -0.391762, -0.812968),
    (1.164383, 2.017232, 0.0),
)


def planar_to_rgb(video):
    """Planar clips [B, T, 3 H / 2, W] -> RGB uint8 [B, T, H, W, 3]; RGB is unchanged."""
    if video.ndim == 5:
        return video
    bright, *differences = split_planes(video)
    differences = [jnp.repeat(jnp.repeat(x, 2, -1), 2, -2) for x in differences]
    x = jnp.stack([bright, *differences], -1).astype(jnp.float32)
    x = (x - jnp.array([16.0, 128.0, 128.0])) @ jnp.array(YUV_TO_RGB).T
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)
