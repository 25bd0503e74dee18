"""Heads on frozen tokens: linear, and the attentive probes of V-JEPA.

A head maps tokens [B, N, D] to outputs [B, outputs]. Sources: arXiv 2404.08471 (appendix,
one cross-attention block) and 2506.09985 (three self-attention blocks before it).
"""

import flax.linen as nn
import jax.numpy as jnp

from core.nn.attention import AttentionOptions
from core.nn.blocks import Block, Mlp
from core.nn.kernels import attend
from core.nn.layers import Dense, LayerNorm

EPS = 1e-5  # of the norms in Meta's heads; transformers takes the encoder's 1e-6


class LinearHead(nn.Module):
    """A linear layer on the mean token."""

    outputs: int

    @nn.compact
    def __call__(self, tokens):
        """[B, N, D] -> [B, outputs]."""
        return Dense(self.outputs, ("embed", None), name="linear")(tokens.mean(1))


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
        y = LayerNorm(self.eps, name="norm1")(x)

        def split(name, z):
            z = Dense(D, ("embed", "heads"), name=name)(z)
            return z.reshape(*z.shape[:-1], H, D // H)

        query = self.param("query", nn.initializers.normal(0.02), (1, 1, D))
        q = jnp.broadcast_to(split("q", query), (B, 1, H, D // H))
        z = query + attend(q, split("key", y), split("value", y)).reshape(B, 1, D)
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
