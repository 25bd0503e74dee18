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
UNTRUNCATED = 1 / 0.87962566  # truncation at two deviations leaves 0.8796 of one


def fan_in(scale=1.0):
    """Initializer: truncated normal of standard deviation scale / sqrt(inputs).

    Inputs are counted as in the published networks: of all blocks for a block kernel
    [G, in, out], rows x columns x channels for a convolution.
    """

    def init(key, shape, dtype=jnp.float32):
        std = scale * UNTRUNCATED / np.sqrt(np.prod(shape[:-1]))
        return std * jax.random.truncated_normal(key, -2, 2, shape, dtype)

    return init


def rms(x, scale):
    """RMS norm over the last axis, computed in float32: [..., C], [C] -> [..., C]."""
    y = x.astype(jnp.float32)
    rate = jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + EPS)
    return (y * rate * scale).astype(x.dtype)


def product(x, kernel):
    """x [..., i] times a matrix [i, o], or block-diagonally times [G, i / G, o / G].

    Returns [..., o], with the outputs of the G blocks one after another.
    """
    if kernel.ndim == 2:
        return x @ kernel
    G, i, _ = kernel.shape
    x, lead = x.reshape(*x.shape[:-1], G, i), x.ndim - 1
    # Not einsum: on CPU it transposes all, and a product takes three times as long.
    y = jax.lax.dot_general(x, kernel, (((lead + 1,), (1,)), ((lead,), (0,))))
    return jnp.moveaxis(y, 0, -2).reshape(*x.shape[:-2], -1)


def norm_act(x, scale):
    """SiLU of the RMS norm of x."""
    return nn.silu(rms(x, scale))


class NormAct(nn.Module):
    """RMS norm, then SiLU; `axis` is the logical axis name of its scale."""

    axis: str | None = None

    @nn.compact
    def __call__(self, x):
        ones = named(nn.initializers.ones, (self.axis,))
        # Recomputed in the backward pass: a tenth less memory at 12m, no slower.
        return jax.checkpoint(norm_act)(x, self.param("scale", ones, x.shape[-1:]))


class Mlp(nn.Module):
    """`depth` layers of linear, RMS norm, SiLU: [..., i] -> [..., width]."""

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
