"""Linear layer, norms and GELU, with hand-written gradients for speed.

Weights carry logical axis names (core/parallel/layouts.py). Norm statistics are float32 in
every compute dtype. The gradients equal those of automatic differentiation, but save less
memory and, on CPU, compile to fewer copies.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def named(init: Callable, names: tuple) -> Callable[..., Any]:
    """An initializer whose arrays carry logical axis names, one per axis."""
    return nn.with_logical_partitioning(init, names)


class Dense(nn.Module):
    """A linear layer; `names` are the two axis names of its kernel [in, features].

    over: mesh axis to sum the output over, where a device has a part of the input channels.
    """

    features: int
    names: tuple
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True
    init: Callable = nn.initializers.normal(0.02)
    over: str | None = None

    @nn.compact
    def __call__(self, x, order=None):
        """[..., in] -> [..., features]; `order` permutes the channels of kernel and bias."""
        shape = x.shape[-1], self.features
        init = named(self.init, self.names)
        weights = [self.param("kernel", init, shape)]
        if self.use_bias:
            init = named(nn.initializers.zeros, self.names[1:])
            weights.append(self.param("bias", init, shape[1:]))
        weights = [w.astype(self.dtype) for w in weights]
        if order is not None:
            weights = [order(w) for w in weights]
        y = linear(x.astype(self.dtype), weights[0])
        if self.over:
            y = jax.lax.psum(y, self.over)
        return y + weights[1] if self.use_bias else y


@jax.custom_vjp
def linear(x, kernel):
    """x @ kernel over the last axis: [..., i], [i, o] -> [..., o]."""
    return jnp.matmul(x, kernel)


def linear_fwd(x, kernel):
    # Not `linear`: a rematerialization policy must see the matrix product.
    return jnp.matmul(x, kernel), (x, kernel)


def linear_bwd(saved, dy):
    """Computes the kernel gradient with the narrower operand first.

    The barrier keeps XLA from swapping them back: on CPU the product would take twice as
    long, and a small step 10% longer.
    """
    x, kernel = saved
    dx = jnp.matmul(dy, kernel.T)
    rows = tuple(range(x.ndim - 1))
    narrow, wide = sorted((x, dy), key=lambda y: y.shape[-1])
    dkernel = jax.lax.dot_general(narrow, wide, ((rows, rows), ((), ())))
    if narrow is not x:
        dkernel = jax.lax.optimization_barrier(dkernel).T
    return dx, dkernel


linear.defvjp(linear_fwd, linear_bwd)


class LayerNorm(nn.Module):
    """Affine layer norm over the last axis, statistics in float32."""

    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        scale = self.param("scale", named(nn.initializers.ones, ("embed",)), shape)
        bias = self.param("bias", named(nn.initializers.zeros, ("embed",)), shape)
        return (normalize(x, eps=self.eps) * scale + bias).astype(self.dtype)


class HeadNorm(nn.Module):
    """Norm of the channels of each head of q or k, statistics in float32.

    kind: "rms" or "layer". One learned scale per channel, shared by all heads, no bias
    (arXiv 2302.05442, section 2; arXiv 2010.04245 norms q and k without the scale).
    `order` rearranges the scale as it does the channels of x.
    """

    kind: str
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, order=None):
        """[B, N, heads, head_dim] -> the same shape; raises ValueError for its kind."""
        if self.kind not in ("rms", "layer"):
            raise ValueError(
                f"qk_norm is {self.kind!r}; expected 'none', 'rms' or 'layer'"
            )
        init = named(nn.initializers.ones, (None,))
        scale = self.param("scale", init, x.shape[-1:])
        scale = scale if order is None else order(scale)
        norm = normalize if self.kind == "layer" else rms_normalize
        return (norm(x, eps=self.eps) * scale).astype(self.dtype)


def rms_normalize(x: jax.Array, *, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) over the last axis, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


def normalize(x: jax.Array, *, eps: float) -> jax.Array:
    """Layer norm without scale or shift over the last axis, in float32."""
    return standardized(x.astype(jnp.float32), eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardized(x, eps):
    return standardized_fwd(x, eps)[0]


def standardized_fwd(x, eps):
    mean = x.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)
    return (x - mean) * rate, (x, mean, rate)


def standardized_bwd(eps, saved, dy):
    x, mean, rate = saved
    y = (x - mean) * rate
    along = (dy * y).mean(-1, keepdims=True)
    return (rate * (dy - dy.mean(-1, keepdims=True) - y * along),)


standardized.defvjp(standardized_fwd, standardized_bwd)


@jax.custom_vjp
def gelu(x):
    """The exact GELU by erf, in float32; erfc of jax.nn takes three times as long on CPU."""
    y = x.astype(jnp.float32)
    return (y * normal_cdf(y)).astype(x.dtype)


def normal_cdf(x):
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def gelu_fwd(x):
    return gelu(x), x


def gelu_bwd(x, dy):
    y = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(y)) * (2 * jnp.pi) ** -0.5
    return ((dy * (normal_cdf(y) + y * density)).astype(x.dtype),)


gelu.defvjp(gelu_fwd, gelu_bwd)
