"""Multi-head self-attention with rotary positions, inside independent segments."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.nn.cache import LayerCache, read, write
from core.nn.kernels import attend
from core.nn.layers import Dense, HeadNorm
from core.nn.masks import FULL, Mask
from core.nn.positions import halve, rotate


class Shard(NamedTuple):
    """Mesh axes that split the tokens and the heads of a device; None where it has all."""

    tokens: str | None = None
    heads: str | None = None


WHOLE = Shard()


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """Static options of an attention layer; the counts of heads are those of one device.

    kv_heads: heads of keys and values; fewer than `heads` is grouped-query attention
      (arXiv 2305.13245).
    qk_norm: "none", or the norm of each head of q and k before rotation: "rms", or
      "layer" (arXiv 2302.05442, section 2).
    kernel: one of core/nn/kernels.py.
    mask: by the position of tokens in their segment.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = True
    qk_norm: str = "none"
    kernel: str = "plain"
    mask: Mask = FULL


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one device."""

    options: AttentionOptions
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x,
        rope,
        seen,
        segments,
        shard: Shard = WHOLE,
        cache: LayerCache | None = None,
        last: int | None = None,
    ):
        """Tokens [B, N, D] -> ([B, N, D], the cache with these tokens, or None).

        Args:
          rope: tables of core/nn/positions.py for these tokens, or None.
          seen: bool [B, M], the keys that count, of all devices, segment after segment;
            None is all.
          segments: lengths that sum to N. Tokens see only their own segment, so several
            mask patterns of a clip share every matrix product.
          cache: the queries are appended to its keys; one segment, no `seen`.
          last: number of last tokens that ask, [B, last, D]; one segment, no cache.
        """
        B, N, D = x.shape
        options, d = self.options, self.options.head_dim
        assert sum(segments) == N, (x.shape, segments)

        def halve_heads(w):
            """Channels in the order of `rotate`; cheaper on kernels than on tokens."""
            return halve(w.reshape(*w.shape[:-1], -1, d)).reshape(w.shape)

        order = None if rope is None else halve_heads
        n = N if last is None else last
        if last is not None:
            assert len(segments) == 1 and cache is None and not shard.tokens
        q = self.project("query", x[:, N - n :], options.heads, order)
        k = self.project("key", x, options.kv_heads, order)
        v = self.project("value", x, options.kv_heads)
        if options.qk_norm != "none":
            norm = {"kind": options.qk_norm, "eps": self.eps, "dtype": self.dtype}
            q = HeadNorm(**norm, name="query_norm")(q, order)
            k = HeadNorm(**norm, name="key_norm")(k, order)
        if rope is not None:
            q = rotate(q, *(table[:, N - n :] for table in rope))
            k = rotate(k, *rope)
        if cache is None:
            y = self.attend_in_segments(q, k, v, seen, segments, shard, N - n)
        else:
            assert seen is None and len(segments) == 1 and not shard.tokens
            cache = write(cache, k, v)
            y = attend(
                q,
                *read(cache),
                mask=options.mask,
                offset=cache.cache.length,
                kernel=options.kernel,
            )
        names = ("heads", "embed")
        out = Dense(D, names, self.dtype, over=shard.heads, name="out")
        return out(y.reshape(B, n, options.heads * d)), cache

    def project(self, name, x, heads: int, order=None):
        """A linear layer to heads: [B, N, D] -> [B, N, heads, head_dim]."""
        names, features = ("embed", "heads"), heads * self.options.head_dim
        bias = self.options.qkv_bias
        y = Dense(features, names, self.dtype, bias, name=name)(x, order)
        return y.reshape(*x.shape[:2], heads, self.options.head_dim)

    def attend_in_segments(self, q, k, v, seen, segments, shard: Shard, offset: int):
        """Attention of each segment to the keys that all devices hold of it.

        offset: place of the first query of one segment among its keys.
        """
        N, options = q.shape[1], self.options

        def split(x):
            """One array per segment, of the tokens of one device or of all devices."""
            ends = np.cumsum(segments)[:-1] * (x.shape[1] // N)
            return jnp.split(x, ends, axis=1)

        marks = len(segments) * [None] if seen is None else split(seen)
        parts = []
        for a, b, c, mark in zip(split(q), split(k), split(v), marks, strict=True):
            first = offset
            if shard.tokens:
                b, c = (
                    jax.lax.all_gather(x, shard.tokens, axis=1, tiled=True)
                    for x in (b, c)
                )
                if (
                    options.mask.ordered
                ):  # this device's part of a segment is contiguous
                    first = jax.lax.axis_index(shard.tokens) * a.shape[1]
            parts.append(
                attend(
                    a,
                    b,
                    c,
                    mark,
                    mask=options.mask,
                    offset=first,
                    kernel=options.kernel,
                )
            )
        return jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]
