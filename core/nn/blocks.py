"""The transformer block shared by all methods: plain or AdaLN-conditioned."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from core.nn.attention import WHOLE, Attention, AttentionOptions, Shard
from core.nn.cache import LayerCache
from core.nn.layers import Dense, LayerNorm, gelu, normalize


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

    With a conditioning vector c it is the AdaLN-Zero block of DiT (arXiv 2212.09748,
    section 3.2). Six vectors of width D, in this order, are Linear(SiLU(c)), whose kernel
    and bias start at zero: shift, scale and gate of attention, then of the MLP. Each
    sublayer is x + gate * f(norm(x) * (1 + scale) + shift), with a layer norm that has no
    weights of its own. Gates of zero make the block the identity, as at initialization.

    `options.heads` and `hidden` are those of one device.
    """

    options: AttentionOptions
    hidden: int
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
        condition=None,
        cache: LayerCache | None = None,
        last: int | None = None,
    ):
        """Tokens [B, N, D] -> ([B, N, D], cache); arguments as in Attention.

        last: number of last tokens that are computed, without a condition: [B, last, D].
        condition: None or c: [B, C], or [B, T, C], each for N / T consecutive tokens.
        """
        attention = Attention(self.options, self.eps, self.dtype, name="attention")
        mlp = Mlp(self.hidden, self.dtype, shard.heads, name="mlp")
        norm = {"eps": self.eps, "dtype": self.dtype}
        if condition is None:
            y = LayerNorm(**norm, name="norm1")(x)
            y, cache = attention(y, rope, seen, segments, shard, cache, last)
            x = x[:, x.shape[1] - y.shape[1] :] + y
            return x + mlp(LayerNorm(**norm, name="norm2")(x)), cache
        assert last is None
        D = x.shape[-1]
        zeros = nn.initializers.zeros
        names = ("embed", None)  # every device applies all channels
        layer = Dense(6 * D, names, self.dtype, init=zeros, name="modulation")
        vectors = jnp.split(
            per_token(layer(nn.silu(condition)), x.shape[1]), 6, axis=-1
        )
        shift, scale, gate = vectors[:3]
        y = modulate(x, shift, scale, eps=self.eps).astype(self.dtype)
        y, cache = attention(y, rope, seen, segments, shard, cache)
        x = x + gate * y
        shift, scale, gate = vectors[3:]
        y = modulate(x, shift, scale, eps=self.eps).astype(self.dtype)
        return x + gate * mlp(y), cache


def modulate(x, shift, scale, *, eps: float) -> jax.Array:
    """Layer norm without weights, then a scale and a shift, in float32."""
    return normalize(x, eps=eps) * (1 + scale) + shift


def per_token(condition, tokens: int) -> jax.Array:
    """[B, C] -> [B, 1, C]; [B, T, C] -> [B, tokens, C], where T divides `tokens`.

    Raises ValueError where it does not.
    """
    if condition.ndim == 2:
        return condition[:, None]
    steps = condition.shape[1]
    if tokens % steps:
        raise ValueError(
            f"condition has {steps} steps, which do not divide the {tokens} tokens; "
            "expected shape [batch, channels] or [batch, steps, channels]"
        )
    return (
        condition if steps == tokens else jnp.repeat(condition, tokens // steps, axis=1)
    )
