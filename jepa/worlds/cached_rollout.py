"""Open-loop predictions that keep keys and values of earlier frames, for plans."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def roll_cached(extend: Callable, seen: dict, actions: jax.Array, cache: Any) -> dict:
    """Frames after each of the last steps, as of FeatureModel.open_loop: T - n + 1 frames.

    It equals the pass over all frames each time where none of them leaves the window.

    Args:
      extend: (frames [B, k, ...], actions [B, k, A], cache, first) -> (the frame after each,
        the cache with them); first: frames in the cache.
      seen: the first n frames. actions: [B, T, A]. cache: empty, for T frames.
    """
    n, T = jax.tree.leaves(seen)[0].shape[1], actions.shape[1]
    after, cache = extend(seen, actions[:, :n], cache, 0)
    found = [jax.tree.map(lambda x: x[:, -1:], after)]
    for t in range(n, T):
        after, cache = extend(found[-1], actions[:, t : t + 1], cache, t)
        found.append(after)
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, 1), *found)
