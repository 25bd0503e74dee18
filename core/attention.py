"""Multi-head self-attention with rotary positions, inside independent segments."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.layers import Dense
from core.positions import halve, rotate


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions, inside independent segments.

    `segments` are lengths that sum to N: tokens see only their own segment. Several mask
    patterns of a clip thus share every matrix product and pay attention only for
    themselves.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, x, rope, valid, segments):
        B, N, D = x.shape
        d = D // self.heads
        assert d * self.heads == D and sum(segments) == N, (x.shape, segments)

        def project(name, order=None):
            names = ("embed", "heads")
            layer = Dense(D, names, self.dtype, self.qkv_bias, name=name)
            return layer(x, order).reshape(B, N, self.heads, d)

        def halve_heads(w):
            """Channels of each head as `rotate` wants them; cheaper here than on tokens."""
            return halve(w.reshape(*w.shape[:-1], self.heads, d)).reshape(w.shape)

        turned = None if rope is None else halve_heads
        q, k, v = project("query", turned), project("key", turned), project("value")
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        split = functools.partial(
            jnp.split, indices_or_sections=np.cumsum(segments)[:-1], axis=1
        )
        seen = len(segments) * [None] if valid is None else split(valid)
        each = zip(split(q), split(k), split(v), seen, strict=True)
        parts = [attend(*one) for one in each]
        y = jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]
        out = Dense(D, ("heads", "embed"), self.dtype, name="out")
        return out(y.reshape(B, N, D))


@jax.custom_vjp
def attend(q, k, v, valid=None):
    """Softmax attention [B, N, H, d] x3 -> [B, N, H, d]; keys where `valid` [B, N] is
    false are left out. Softmax in float32; its gradient computes the weights anew."""
    return jnp.einsum("bhqk,bkhd->bqhd", attention(q, k, valid).astype(v.dtype), v)


def attention(q, k, valid):
    """Softmax weights [B, H, N, N] in float32."""
    scores = jnp.einsum(
        "bqhd,bkhd->bhqk",
        q * q.shape[-1] ** -0.5,
        k,
        preferred_element_type=jnp.float32,
    )
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, -1e30)
    return jax.nn.softmax(scores)


def attend_fwd(q, k, v, valid=None):
    return attend(q, k, v, valid), (q, k, v, valid)


def attend_bwd(saved, dy):
    q, k, v, valid = saved
    weights = attention(q, k, valid)
    dv = jnp.einsum("bhqk,bqhd->bkhd", weights.astype(v.dtype), dy)
    dweights = jnp.einsum("bqhd,bkhd->bhqk", dy, v, preferred_element_type=jnp.float32)
    along = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - along) * q.shape[-1] ** -0.5
    dscores = dscores.astype(q.dtype)
    dq = jnp.einsum("bhqk,bkhd->bqhd", dscores, k)
    dk = jnp.einsum("bhqk,bqhd->bkhd", dscores, q)
    return dq, dk, dv, None


attend.defvjp(attend_fwd, attend_bwd)
