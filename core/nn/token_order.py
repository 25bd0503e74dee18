"""The order in which a transformer takes its tokens: what counts first, parts on devices.

Attention does not care about order, for positions travel with the tokens. But one of its
kernels wants the tokens that count before padding, and devices that share the tokens of a
clip want an equal part of each segment.
"""

import jax
import jax.numpy as jnp
import numpy as np


def arrange(valid, segments, ways: int, B: int, *, first: bool):
    """(order, seen): rows [B, N] to take tokens in, and which keys count [B, N].

    first: whether those that are `valid` [B, N] come first in each segment. Of `ways`
    equal parts of the whole, each holds an equal part of every segment; `seen` is in the
    order of segments all the same, as keys are once they are gathered. None stands for
    the order that is there, and for all tokens.
    """
    first = first and valid is not None
    if not first and (ways == 1 or len(segments) == 1):
        return None, valid
    ends = np.cumsum(segments)
    parts = [np.arange(e - n, e) for e, n in zip(ends, segments, strict=True)]
    parts = [jnp.broadcast_to(part, (B, len(part))) for part in parts]
    if first:
        marks = jnp.split(valid, ends[:-1], 1)
        turned = [jnp.argsort(~m, axis=1, stable=True) for m in marks]
        parts = [take(part, turn) for part, turn in zip(parts, turned, strict=True)]
        valid = take(valid, jnp.concatenate(parts, 1))
    parts = [part.reshape(B, ways, -1) for part in parts]
    return jnp.concatenate(parts, 2).reshape(B, -1), valid


@jax.custom_vjp
def permute(x, order, inverse):
    """Tokens of each row in another order: [B, N, ...], [B, N]; its gradient is a
    permutation too, not a sum over rows.
    """
    return take(x, order)


def take(x, order):
    """Tokens of each row by index: [B, N, ...], [B, n] -> [B, n, ...]."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)


def permute_fwd(x, order, inverse):
    return take(x, order), inverse


def permute_bwd(inverse, dy):
    return take(dy, inverse), None, None


permute.defvjp(permute_fwd, permute_bwd)
