"""The order in which a transformer takes its tokens: what counts first, parts on devices.

Attention does not care about order, for positions travel with the tokens. It does want
the tokens that count before padding, and of each segment an equal part on every device.
"""

import jax
import jax.numpy as jnp
import numpy as np


def arrange(valid, segments, ways: int, B: int):
    """(order, lengths): rows [B, N] to take tokens in, and how many count [B, segments].

    Within each segment those that are `valid` [B, N] come first. Of `ways` equal parts
    of the whole, each holds an equal part of every segment. None stands for the order
    that is there, and for all tokens.
    """
    ends, lengths = np.cumsum(segments), None
    parts = [np.arange(e - n, e) for e, n in zip(ends, segments, strict=True)]
    if valid is None and (ways == 1 or len(segments) == 1):
        return None, None
    parts = [jnp.broadcast_to(part, (B, len(part))) for part in parts]
    if valid is not None:
        seen = jnp.split(valid, ends[:-1], 1)
        lengths = jnp.stack([s.sum(1) for s in seen], 1)
        parts = [
            jnp.take_along_axis(part, jnp.argsort(~s, axis=1, stable=True), 1)
            for part, s in zip(parts, seen, strict=True)
        ]
    parts = [part.reshape(B, ways, -1) for part in parts]
    return jnp.concatenate(parts, 2).reshape(B, -1), lengths


@jax.custom_vjp
def permute(x, order, inverse):
    """Tokens of each row in another order: [B, N, ...], [B, N]; its gradient is a
    permutation too, not a sum over rows."""
    return take(x, order)


def take(x, order):
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)


def permute_fwd(x, order, inverse):
    return take(x, order), inverse


def permute_bwd(inverse, dy):
    return take(dy, inverse), None, None


permute.defvjp(permute_fwd, permute_bwd)
