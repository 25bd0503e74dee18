"""The transformer block shared by all methods, and the parts that it is made of."""

import flax.linen as nn
import jax.numpy as jnp

from core.nn.attention import ALL, Attention
from core.nn.layers import Dense, LayerNorm, gelu


class Mlp(nn.Module):
    """Two-layer perceptron with the exact (erf) GELU; `over` as in Dense."""

    hidden: int
    dtype: jnp.dtype = jnp.float32
    over: str | None = None

    @nn.compact
    def __call__(self, x):
        D = x.shape[-1]
        y = gelu(Dense(self.hidden, ("embed", "mlp"), self.dtype, name="up")(x))
        names = ("mlp", "embed")
        return Dense(D, names, self.dtype, over=self.over, name="down")(y)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    `heads`, `hidden` and the arguments are what one device holds (core/nn/attention.py).
    """

    heads: int
    head_dim: int
    hidden: int
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    qkv_bias: bool = True
    kernel: str = "plain"

    @nn.compact
    def __call__(self, x, rope, seen, segments, shard=ALL):
        norm = {"eps": self.eps, "dtype": self.dtype}
        attention = Attention(
            self.heads,
            self.head_dim,
            self.dtype,
            self.qkv_bias,
            self.kernel,
            name="attention",
        )
        y = LayerNorm(**norm, name="norm1")(x)
        x = x + attention(y, rope, seen, segments, shard)
        mlp = Mlp(self.hidden, self.dtype, shard.heads, name="mlp")
        return x + mlp(LayerNorm(**norm, name="norm2")(x))
