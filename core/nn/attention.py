"""Multi-head self-attention with rotary positions, inside independent segments."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.nn.kernels import attend
from core.nn.layers import Dense
from core.nn.positions import halve, rotate


class Shard(NamedTuple):
    """Mesh axes over which a device holds a part only; None where it holds all."""

    tokens: str | None = None
    heads: str | None = None


ALL = Shard()


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions, inside independent segments.

    `heads` of `head_dim` channels and `segments` are those of one device: lengths that
    sum to its tokens. Tokens see only their own segment, so several mask patterns of a
    clip share every matrix product and pay attention only for themselves. `seen` are the
    tokens of all devices that count, segment after segment; None is all.
    """

    heads: int
    head_dim: int
    dtype: jnp.dtype = jnp.float32
    qkv_bias: bool = True
    kernel: str = "plain"

    @nn.compact
    def __call__(self, x, rope, seen, segments, shard=ALL):
        B, N, D = x.shape
        H, d = self.heads, self.head_dim
        assert sum(segments) == N, (x.shape, segments)

        def project(name, order=None):
            layer = Dense(
                H * d, ("embed", "heads"), self.dtype, self.qkv_bias, name=name
            )
            return layer(x, order).reshape(B, N, H, d)

        def halve_heads(w):
            """Channels of each head as `rotate` wants them; cheaper here than on tokens."""
            return halve(w.reshape(*w.shape[:-1], H, d)).reshape(w.shape)

        turned = None if rope is None else halve_heads
        q, k, v = project("query", turned), project("key", turned), project("value")
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)

        def split(x):
            """One array per segment, of a device's tokens or of those of all."""
            ends = np.cumsum(segments)[:-1] * (x.shape[1] // N)
            return jnp.split(x, ends, axis=1)

        marks = len(segments) * [None] if seen is None else split(seen)
        parts = []
        for a, *keys, mark in zip(split(q), split(k), split(v), marks, strict=True):
            if shard.tokens:
                keys = (
                    jax.lax.all_gather(x, shard.tokens, axis=1, tiled=True)
                    for x in keys
                )
            parts.append(attend(a, *keys, mark, kernel=self.kernel))
        y = jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]
        names = ("heads", "embed")
        out = Dense(D, names, self.dtype, over=shard.heads, name="out")
        return out(y.reshape(B, N, H * d))
