"""Layers of DreamerV3: RMS norm with SiLU, block-diagonal products, MLPs and heads."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.nn.layers import Dense, named
from core.parallel.layouts import Axis

DETER = Axis("deter", over=("tensor",))
BLOCKS = Axis("blocks", over=("tensor",))
EPS = 1e-4
UNCUT = 1 / 0.87962566  # a normal cut at two deviations keeps 0.8796 of its own


def fan_in(scale=1.0):
    """Truncated normal of deviation scale / sqrt(inputs).

    The inputs of a block kernel [G, in, out] are those of all blocks, as in the
    published networks; of a convolution, rows x columns x channels.
    """

    def init(key, shape, dtype=jnp.float32):
        std = scale * UNCUT / np.sqrt(np.prod(shape[:-1]))
        return std * jax.random.truncated_normal(key, -2, 2, shape, dtype)

    return init


def rms(x, scale):
    """x over its root mean square along the last axis, times `scale`; in float32."""
    y = x.astype(jnp.float32)
    rate = jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + EPS)
    return (y * rate * scale).astype(x.dtype)


def product(x, kernel):
    """x by a matrix [i, o]; or each of G groups of x by its own, [G, i / G, o / G].

    [..., i] -> [..., o], groups one after the other.
    """
    if kernel.ndim == 2:
        return x @ kernel
    G, i, _ = kernel.shape
    y = jnp.einsum("...gi,gio->...go", x.reshape(*x.shape[:-1], G, i), kernel)
    return y.reshape(*x.shape[:-1], -1)


def norm_act(x, scale):
    """SiLU of the RMS-normalised x."""
    return nn.silu(rms(x, scale))


class NormAct(nn.Module):
    """RMS norm, then SiLU; `axis` names what it runs along."""

    axis: str | None = None

    @nn.compact
    def __call__(self, x):
        ones = named(nn.initializers.ones, (self.axis,))
        # Computed again for the gradient: a tenth less memory at 12m, no more time.
        return jax.checkpoint(norm_act)(x, self.param("scale", ones, x.shape[-1:]))


class Mlp(nn.Module):
    """`depth` times linear, RMS norm, SiLU."""

    depth: int
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        axes = ("embed", *("mlp", "embed") * self.depth)
        for i in range(self.depth):
            names = axes[i : i + 2]
            layer = Dense(
                self.width, names, self.dtype, init=fan_in(), name=f"linear{i}"
            )
            x = NormAct(names[1], name=f"norm{i}")(layer(x))
        return x


class Head(nn.Module):
    """An MLP and a linear layer to float32 outputs [..., *shape]; scale 0 gives zeros."""

    depth: int
    width: int
    shape: Sequence[int] = ()
    scale: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        y = Mlp(self.depth, self.width, self.dtype, name="mlp")(x)
        names, size = (("embed", "mlp")[self.depth % 2], None), int(np.prod(self.shape))
        init = fan_in(self.scale)
        y = Dense(size, names, self.dtype, init=init, name="out")(y)
        return y.reshape(*x.shape[:-1], *self.shape).astype(jnp.float32)
