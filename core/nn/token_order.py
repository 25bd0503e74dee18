"""Token reordering: valid tokens first, equal shares of each segment per device.

Full attention does not depend on the order of tokens, because their positions move with
them. The cuDNN kernel requires valid tokens before padding, and devices that share the
tokens of a clip each need an equal part of every segment.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def arrange(
    valid: jax.Array | None, segments: Sequence[int], ways: int, B: int, *, first: bool
) -> tuple[jax.Array | None, jax.Array | None]:
    """(order, seen): token indices int32 [B, N], and the keys that count, bool [B, N].

    In the new order, each of `ways` equal parts holds an equal contiguous part of every
    segment. `seen` is in the order of gathered keys, segment after segment.

    Args:
      valid: bool [B, N]; None is all valid, and then `seen` is None.
      first: whether valid tokens come first in each segment; otherwise a segment keeps
        its order.

    An order of None is the order given.
    """
    if valid is None:
        first = False
    if not first and (ways == 1 or len(segments) == 1):
        return None, valid
    ends = np.cumsum(segments)
    parts = [np.arange(e - n, e) for e, n in zip(ends, segments, strict=True)]
    parts = [jnp.broadcast_to(part, (B, len(part))) for part in parts]
    if first and valid is not None:
        marks = jnp.split(valid, ends[:-1], 1)
        orders = [jnp.argsort(~m, axis=1, stable=True) for m in marks]
        parts = [take(part, order) for part, order in zip(parts, orders, strict=True)]
        valid = take(valid, jnp.concatenate(parts, 1))
    parts = [part.reshape(B, ways, -1) for part in parts]
    return jnp.concatenate(parts, 2).reshape(B, -1), valid


@jax.custom_vjp
def permute(x, order, inverse):
    """Tokens of each row in another order: [B, N, ...], [B, N]; `inverse` undoes `order`.

    The gradient is the inverse permutation, faster than the scatter-add of `take`.
    """
    return take(x, order)


def take(x: jax.Array, order: jax.Array) -> jax.Array:
    """Tokens of each row by index: [B, N, ...], [B, n] -> [B, n, ...]."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)


def permute_fwd(x, order, inverse):
    return take(x, order), inverse


def permute_bwd(inverse, dy):
    return take(dy, inverse), None, None


permute.defvjp(permute_fwd, permute_bwd)
