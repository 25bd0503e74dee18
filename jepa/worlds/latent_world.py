"""A world model with one vector per frame, as the functions that evaluations and plans use."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class LatentWorld(NamedTuple):
    """Pure functions of a method's weights; D is the width of a latent.

    weights_of: state -> weights, a tree with "actions": {"mean", "std"} of environment
      actions [A].
    encode: (weights, uint8 images [..., size, size, 3]) -> latents, float32 [..., D].
    predict: (weights, latents [B, T, D], blocks [B, T, skip A]) -> the next latent of every
      step [B, T, D], from true ones.
    roll: (weights, latents [N, n, D], blocks [N, n - 1 + H, skip A]) -> latents after each of
      the last H blocks [N, H, D], from predicted ones; 1 <= n <= history.
    skip: environment actions of a block. size: pixels per side. history: most frames that
    `roll` is given. Blocks are normalized, as by `jepa.worlds.clip_statistics.normalized`.
    """

    weights_of: Callable[[Any], Any]
    encode: Callable[[Any, jax.Array], jax.Array]
    predict: Callable[[Any, jax.Array, jax.Array], jax.Array]
    roll: Callable[[Any, jax.Array, jax.Array], jax.Array]
    skip: int
    size: int
    history: int = 1
