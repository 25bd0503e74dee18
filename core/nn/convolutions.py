"""5x5 convolutions fused with down- and upsampling, in forms with fewer operations.

The parameter is always the published 5x5 kernel, rearranged at every call. The rearranged
forms give the same output as the published order (tests/dreamer/test_nets.py).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

LAYOUT = ("NHWC", "HWIO", "NHWC")
PIXELS = 1 << 16  # per part of a kernel gradient on CPU


def strided(x: jax.Array, kernel: jax.Array, *, stride: int = 2) -> jax.Array:
    """SAME convolution: [B, H, W, i], [k, k, i, o] -> [B, H / stride, W / stride, o]."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT
    )


@jax.custom_vjp
def conv(x, kernel):
    """Convolution with stride 1, SAME: [B, H, W, i], [k, k, i, o] -> [B, H, W, o]."""
    return strided(x, kernel, stride=1)


def conv_fwd(x, kernel):
    return conv(x, kernel), (x, kernel)


def conv_bwd(saved, dy):
    """Computes the kernel gradient in parts on CPU, where XLA is slow on large batches.

    For 192 maps of 32 x 32 with 16 channels this takes a fifth of the time.
    """
    x, kernel = saved
    (dx,) = jax.vjp(lambda x: strided(x, kernel, stride=1), x)[1](dy)
    parts = -(-x.shape[0] * x.shape[1] * x.shape[2] // PIXELS)
    whole = functools.partial(kernel_gradient, kernel=kernel)

    def in_parts(x, dy):
        pairs = zip(*(jnp.array_split(z, parts) for z in (x, dy)), strict=True)
        return sum(whole(*pair) for pair in pairs)

    return dx, jax.lax.platform_dependent(x, dy, cpu=in_parts, default=whole)


def kernel_gradient(x, dy, *, kernel):
    return jax.vjp(lambda w: strided(x, w, stride=1), kernel)[1](dy)[0]


conv.defvjp(conv_fwd, conv_bwd)


def conv_transpose(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution with stride 2, SAME: [B, H, W, i] -> [B, 2 H, 2 W, o]."""
    return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT)


def space_to_depth(x: jax.Array) -> jax.Array:
    """[B, H, W, c] -> [B, H / 2, W / 2, 4 c]; channels: row parity, column parity, c."""
    B, H, W, c = x.shape
    x = x.reshape(B, H // 2, 2, W // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, H // 2, W // 2, 4 * c)


def depth_to_space(x: jax.Array) -> jax.Array:
    """[B, H, W, 4 c] -> [B, 2 H, 2 W, c], the inverse of `space_to_depth`."""
    B, H, W, c = x.shape
    x = x.reshape(B, H, W, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, 2 * H, 2 * W, c // 4)


def quarters(x, axes):
    """Yields the four slices of x along two axes of size two, without those axes."""
    first, second = axes
    for i in range(2):
        for j in range(2):
            y = jax.lax.index_in_dim(x, j, second, keepdims=False)
            yield jax.lax.index_in_dim(y, i, first, keepdims=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def largest(x, axes):
    """Maximum over two axes of size two; equal maxima share the gradient.

    The backward pass keeps one bit per number instead of the numbers.
    """
    return functools.reduce(jnp.maximum, quarters(x, axes))


def largest_fwd(x, axes):
    y = largest(x, axes)
    equal = (
        jnp.asarray(part == y, jnp.uint8) << k
        for k, part in enumerate(quarters(x, axes))
    )
    return y, functools.reduce(jnp.bitwise_or, equal)


def largest_bwd(axes, which, dy):
    share = dy / jax.lax.population_count(which).astype(dy.dtype)
    which, share = (jnp.expand_dims(x, axes) for x in (which, share))
    shape = [2 if k in axes else 1 for k in range(which.ndim)]
    bits = np.array([1, 2, 4, 8], np.uint8).reshape(shape)
    return (jnp.where(which & bits, share, 0),)


largest.defvjp(largest_fwd, largest_bwd)


def pool(x: jax.Array) -> jax.Array:
    """Maximum over 2 x 2 pixels: [B, H, W, c] -> [B, H / 2, W / 2, c]."""
    B, H, W, c = x.shape
    return largest(x.reshape(B, H // 2, 2, W // 2, 2, c), (2, 4))


# SHARES[p, t, k] is 1 where tap k of five, for an output pixel of parity p on the doubled
# map, reads the source pixel at offset t - 1: 0 1 | 2 3 | 4 and 0 | 1 2 | 3 4.
SHARES = np.zeros((2, 3, 5), np.float32)
# TAPS[p, t, s, k]: the same for an input with a separate axis of parities s.
TAPS = np.zeros((2, 3, 2, 5), np.float32)
for _p in range(2):
    for _k in range(5):
        _t, _s = divmod(_p + _k - 2, 2)
        SHARES[_p, _t + 1, _k] = TAPS[_p, _t + 1, _s, _k] = 1


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Nearest-neighbor doubling, then a 5x5 convolution: [B, H, W, i] -> [B, 2 H, 2 W, o].

    Each output parity reads only 3 x 3 source pixels, so one 3x3 convolution on the small
    map gives all four parities, with 2.8 times fewer multiply-adds.
    """
    _, _, i, o = kernel.shape
    small = jnp.einsum("ptk,qul,klio->tuipqo", SHARES, SHARES, kernel)
    return depth_to_space(conv(x, small.reshape(3, 3, i, 4 * o).astype(x.dtype)))


def conv_pool(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 5x5 convolution, then the maximum over 2 x 2: [B, H, W, i] -> [B, H / 2, W / 2, o].

    For few channels, a 3x3 convolution on the halved map with four times the channels is
    faster; its outputs are the four pixels of each maximum.
    """
    _, _, i, o = kernel.shape
    small = jnp.einsum("ptsk,qurl,klio->tusripqo", TAPS, TAPS, kernel)
    small = small.reshape(3, 3, 4 * i, 4 * o).astype(x.dtype)
    y = conv(space_to_depth(x), small)
    return largest(y.reshape(*y.shape[:-1], 2, 2, o), (3, 4))
