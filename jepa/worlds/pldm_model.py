"""Networks of PLDM: residual convolutions on images, a recurrent predictor, inverse dynamics.

arXiv 2502.14819, appendix on two rooms. All are small and held whole by every device, except
a vision transformer in place of the convolutions (jepa/worlds/lewm_model.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from core.nn.convolutions import conv
from core.nn.layers import Dense, named
from jepa.nets.model import standardize
from jepa.worlds.lewm_model import SCALED


class ResidualConvolutions(nn.Module):
    """The convolutional encoder of IMPALA (arXiv 1802.01561, figure 3), any image size.

    channels: of each stack, which halves the picture; IMPALA has 16, 32, 32. blocks: residual
    blocks of a stack. groups: of the group norm before each convolution of a block; 0 has no
    norm. The published two rooms say that there is a group norm, not where.
    """

    channels: tuple[int, ...] = (16, 32, 32)
    blocks: int = 2
    groups: int = 0
    dtype: jnp.dtype = jnp.float32

    def check(self, size: int) -> None:
        """Raise ValueError for images of which nothing is left, and for unequal groups."""
        if size < 2 ** len(self.channels):
            raise ValueError(
                f"data.size is {size}, but encoder.channels halves {len(self.channels)} "
                f"times; use {2 ** len(self.channels)} or more"
            )
        for width in self.channels if self.groups else ():
            if width % self.groups:
                raise ValueError(
                    f"encoder.groups is {self.groups}, which does not divide {width} of "
                    "encoder.channels"
                )

    @nn.compact
    def __call__(self, images):
        """uint8 [N, H, W, 3] -> [N, features]; H and W are halved and rounded up."""
        x = standardize(images).astype(self.dtype)
        for i, width in enumerate(self.channels):
            x = max_pool(self.convolve(f"stack{i}", x, width))
            for j in range(self.blocks):
                y = x
                for k in range(2):
                    name = f"stack{i}_block{j}_{k}"
                    y = self.convolve(name, nn.relu(self.norm(name, y)), width)
                x = x + y
        return nn.relu(x).reshape(len(x), -1)

    def convolve(self, name, x, width):
        """A 3 x 3 convolution with a bias."""
        init = named(SCALED, (None, None, None, None))
        kernel = self.param(f"{name}_kernel", init, (3, 3, x.shape[-1], width))
        zeros = named(nn.initializers.zeros, (None,))
        bias = self.param(f"{name}_bias", zeros, (width,))
        return conv(x, kernel.astype(self.dtype)) + bias.astype(self.dtype)

    def norm(self, name, x):
        """Group norm with a scale and a shift for each channel."""
        if not self.groups:
            return x
        C, ones = x.shape[-1], nn.initializers.ones
        scale = self.param(f"{name}_scale", named(ones, (None,)), (C,))
        zeros = named(nn.initializers.zeros, (None,))
        shift = self.param(f"{name}_shift", zeros, (C,))
        y = group_normalize(x, self.groups, eps=1e-5)
        return (y * scale + shift).astype(self.dtype)


def group_normalize(x, groups: int, *, eps: float):
    """[N, H, W, C] -> mean 0 and variance 1 of each picture's channels by group, float32.

    arXiv 1803.08494, section 3.
    """
    N, H, W, C = x.shape
    y = x.astype(jnp.float32).reshape(N, H * W, groups, C // groups)
    y = y - y.mean((1, 3), keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 3), keepdims=True) + eps)
    return y.reshape(N, H, W, C)


def max_pool(x):
    """Maximum over 3 x 3 pixels at every second one: [N, H, W, C] -> [N, H', W', C].

    H' is half of H, rounded up; beyond the border is nothing. By slices, because the gradient
    of a windowed reduction is slow on CPUs.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        pad = [(0, 0)] * 4
        pad[axis] = (1, n % 2)
        padded = jnp.pad(x, pad, constant_values=-jnp.inf)
        first, second, third = (
            jax.lax.slice_in_dim(padded, k, k + 2 * ((n + 1) // 2) - 1, 2, axis)
            for k in range(3)
        )
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


class Head(nn.Module):
    """Linear map of features to a latent: [..., features] -> [..., width]."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        names = (None, "embed")
        return Dense(self.width, names, self.dtype, init=SCALED, name="linear")(x)


class Gru(nn.Module):
    """One step of a gated recurrent unit whose state is the latent itself.

    arXiv 1406.1078, with the reset gate after the product, as in common libraries. Where the
    update gate is closed, the latent keeps its value.
    """

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, latents, actions):
        """[..., width], normalized blocks [..., skip A] -> [..., width], float32."""

        def gates(name, x):
            layer = Dense(
                3 * self.width, (None, None), self.dtype, init=SCALED, name=name
            )
            return jnp.split(layer(x).astype(jnp.float32), 3, -1)

        given, known = gates("action", actions), gates("latent", latents)
        reset, keep = (
            jax.nn.sigmoid(a + b) for a, b in zip(given[:2], known[:2], strict=True)
        )
        new = jnp.tanh(given[2] + reset * known[2])
        return keep * latents + (1 - keep) * new


class InverseDynamics(nn.Module):
    """The action between two latents, by an MLP with one hidden layer."""

    hidden: int
    out: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, before, after):
        """[..., D], [..., D] -> the normalized block of actions [..., out], float32."""
        x = jnp.concatenate([before, after], -1)
        up = Dense(self.hidden, (None, None), self.dtype, init=SCALED, name="up")
        down = Dense(self.out, (None, None), self.dtype, init=SCALED, name="down")
        return down(nn.relu(up(x))).astype(jnp.float32)
