"""Heads on frozen tokens: linear, and the attentive probes of V-JEPA.

A head maps tokens [B, N, D] to outputs [B, outputs]. Sources: arXiv 2404.08471 (appendix,
one cross-attention block) and 2506.09985 (three self-attention blocks before it).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from core.nn.attention import AttentionOptions
from core.nn.blocks import Block, Mlp
from core.nn.layers import Dense, LayerNorm, named, normalize

EPS = 1e-5  # of the norms in Meta's heads; transformers takes the encoder's 1e-6


class LinearHead(nn.Module):
    """A linear layer on the mean token."""

    outputs: int

    @nn.compact
    def __call__(self, tokens):
        """[B, N, D] -> [B, outputs]."""
        return Dense(self.outputs, ("embed", None), name="linear")(tokens.mean(1))


class Affine(nn.Module):
    """The parameters of a Dense or LayerNorm, for use in another order.

    weight: name of the first, of `shape`, followed by a bias of the last axis.
    """

    weight: str
    shape: tuple[int, ...]
    init: Callable

    @nn.compact
    def __call__(self):
        """(weight, bias)."""
        names = ("embed", "heads") if len(self.shape) > 1 else ("embed",)
        weight = self.param(self.weight, named(self.init, names), self.shape)
        zeros = named(nn.initializers.zeros, names[-1:])
        return weight, self.param("bias", zeros, self.shape[-1:])


class AttentivePooler(nn.Module):
    """`depth - 1` self-attention blocks without positions, then a learned query.

    The query attends to the normalized tokens. It is not normalized itself, and its
    attention has no output projection. Depth 1 is V-JEPA's probe, depth 4 V-JEPA 2's.
    """

    depth: int
    heads: int
    eps: float = EPS

    @nn.compact
    def __call__(self, tokens):
        """[B, N, D] -> [B, D]; raises ValueError if the heads do not divide D."""
        B, N, D = tokens.shape
        H = self.heads
        if D % H:
            raise ValueError(f"an attentive head of width {D} does not divide into {H}")
        options = AttentionOptions(heads=H, kv_heads=H, head_dim=D // H)
        x = tokens
        for i in range(self.depth - 1):
            block = Block(options, 4 * D, self.eps, name=f"block{i}")
            x, _ = block(x, None, None, (N,))
        query = self.param("query", nn.initializers.normal(0.02), (1, 1, D))
        scale, shift = Affine("scale", (D,), nn.initializers.ones, name="norm1")()
        kernel = nn.initializers.normal(0.02)
        key, _ = Affine("kernel", (D, D), kernel, name="key")()
        value, bias = Affine("kernel", (D, D), kernel, name="value")()
        q = Dense(D, ("embed", "heads"), name="q")(query).reshape(H, D // H)
        # Keys and values of all tokens are never computed: q (s x + t) K is x (s K q) plus a
        # number that softmax ignores, and the weights of a mean pass through V. Many heads
        # on the same tokens then share one matrix product with few columns each.
        seen = jnp.einsum("dhk,hk->dh", key.reshape(D, H, D // H), q)
        y = normalize(x, eps=self.eps)
        scores = jnp.einsum("bnd,dh->bhn", y, scale[:, None] * seen)
        weights = jax.nn.softmax(scores * (D // H) ** -0.5, -1)
        mean = jnp.einsum("bhn,bnd->bhd", weights, y) * scale + shift
        mean = jnp.einsum("bhd,dhk->bhk", mean, value.reshape(D, H, D // H))
        z = query + mean.reshape(B, 1, D) + bias
        z = z + Mlp(4 * D, name="mlp")(LayerNorm(self.eps, name="norm2")(z))
        return z[:, 0]


class AttentiveHead(nn.Module):
    """An attentive pooler, then a linear layer.

    heads: of attention; Meta's heads have 16 or the encoder's, transformers the encoder's.
    """

    outputs: int
    depth: int = 4
    heads: int = 16
    eps: float = EPS

    @nn.compact
    def __call__(self, tokens):
        """[B, N, D] -> [B, outputs]."""
        pooler = AttentivePooler(self.depth, self.heads, self.eps, name="pooler")
        return Dense(self.outputs, ("embed", None), name="linear")(pooler(tokens))
