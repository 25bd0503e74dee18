"""Transformer blocks with dropout, causal over time steps, of DINO-WM and LeWorldModel.

A layer norm stands inside attention and MLP, and query, key and value have no bias. Dropout
has a key per row, so that a row does not depend on the others.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from core.nn import row_keys
from core.nn.blocks import modulate
from core.nn.kernels import attend
from core.nn.layers import Dense, LayerNorm, gelu
from core.nn.masks import block_causal

# Uniform within 1 / sqrt(inputs): the initialization of the released code.
SCALED = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
FEW = 4  # keys, up to which a CPU sums values faster than it multiplies such small matrices


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), as in DINO-WM (arXiv 2411.04983).

    Attributes:
      heads, head_dim, hidden: sizes; heads head_dim need not be the width of x.
      dropout: share of attention weights, outputs and hidden units set to zero in training.
      step_tokens: consecutive tokens of a step, which see each other and earlier steps.
      attention: one of core/nn/kernels.py, where nothing is dropped.
    """

    heads: int
    head_dim: int
    hidden: int
    dropout: float = 0.0
    step_tokens: int = 1
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, keys=None):
        """[B, N, W] -> [B, N, W]. keys: of the rows, [B]; None drops nothing."""
        x = x + self.attend(x, keys)
        return x + self.mlp(x, keys)

    def mlp(self, x, keys):
        """Layer norm, then two layers with the exact GELU."""
        W = x.shape[-1]
        y = gelu(self.dense("up", self.hidden)(LayerNorm(1e-5, name="norm_mlp")(x)))
        return self.drop(self.dense("down", W)(self.drop(y, keys, 2)), keys, 3)

    def attend(self, x, keys, *, last: bool = False):
        """Layer norm, then attention to the own step and to earlier ones.

        last: whether only the last token asks: [B, 1, W]; for steps of one token.
        """
        B, N, W = x.shape
        x = LayerNorm(1e-5, name="norm_attention")(x)
        heads = (self.heads, self.head_dim)
        q, k, v = (
            self.dense(name, self.heads * self.head_dim, use_bias=False)
            for name in ("query", "key", "value")
        )
        out, y = self.dense("out", W), v(x)
        if N > 1 or self.is_initializing():  # one token attends to itself alone
            asking = x[:, -1:] if last else x
            a, b, c = (z.reshape(B, -1, *heads) for z in (q(asking), k(x), y))
            y = self.weigh(a, b, c, keys)
        return self.drop(out(y.reshape(B, y.shape[1], -1)), keys, 1)

    def weigh(self, q, k, v, keys):
        """Values [B, N, heads, head_dim] weighed by dropped softmax weights.

        The queries are those of the last tokens.
        """
        mask, N = block_causal(self.step_tokens), k.shape[1]
        if self.step_tokens > 1 and (keys is None or not self.dropout):
            return attend(q, k, v, mask=mask, kernel=self.attention)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) * self.head_dim**-0.5
        places = jnp.arange(N)
        seen = places <= mask.last_key(places[N - q.shape[1] :])[:, None]
        scores = jnp.where(seen, scores.astype(jnp.float32), -jnp.inf)
        weights = self.drop(jax.nn.softmax(scores, -1), keys, 0)
        weights = weights.astype(self.dtype)
        if N > FEW:
            return jnp.einsum("bhts,bshd->bthd", weights, v)
        weights = weights.transpose(3, 0, 2, 1)[..., None]
        return jnp.stack([weights[s] * v[:, s, None] for s in range(N)]).sum(0)

    def dense(self, name, features, use_bias=True):
        names = ("embed", None) if name != "down" else (None, "embed")
        return Dense(features, names, self.dtype, use_bias, SCALED, name=name)

    def drop(self, x, keys, stream: int):
        """x with some numbers set to zero and the rest scaled up."""
        if keys is None or not self.dropout:
            return x
        noise = row_keys.sample(
            jax.random.uniform, row_keys.fold(keys, stream), x.shape
        )
        return jnp.where(noise < self.dropout, 0, x / (1 - self.dropout))


class ModulatedBlock(PreNormBlock):
    """PreNormBlock with AdaLN-zero around its layers, as in LeWorldModel (2603.19312)."""

    @nn.compact
    def __call__(self, x, condition, keys=None, *, vectors=None, last: bool = False):
        """[B, T, W], [B, T, C] -> [B, T, W], or [B, 1, W] of the last step alone.

        vectors: the output of `modulation`, [B, T, 6 W], if it was computed before.
        """
        if vectors is None:
            layer = modulation(x.shape[-1], self.dtype, name="modulation")
            vectors = layer(nn.silu(condition))
        shift, scale, gate, *rest = jnp.split(vectors, 6, axis=-1)
        y = modulate(x, shift, scale, eps=1e-6).astype(self.dtype)
        y = self.attend(y, keys, last=last)
        if last:
            x, gate, *rest = (z[:, -1:] for z in (x, gate, *rest))
        x = x + gate * y
        shift, scale, gate = rest
        y = modulate(x, shift, scale, eps=1e-6).astype(self.dtype)
        return x + gate * self.mlp(y, keys)


def modulation(width: int, dtype, **name) -> Dense:
    """The layer that makes shifts, scales and gates of a condition, zero at first."""
    zeros = nn.initializers.zeros
    return Dense(6 * width, ("embed", None), dtype, init=zeros, **name)
