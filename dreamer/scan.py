"""A scan over time whose weight gradients are one matrix product after the scan.

The gradient of a plain scan adds each step's weight gradients to a carry: one small product
and one pass over every weight per step.
"""

import functools

import jax
import jax.numpy as jnp

from dreamer.layers import product


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(step, kernels: dict, rest, carry, xs):
    """lax.scan of a step that multiplies by kernels, with cheap kernel gradients.

    Args:
      step: pure, (dot, rest, carry, x) -> (carry, y), without the time axis. dot(name, v)
        returns `product(v, kernels[name])` (dreamer/layers.py), [B, i] -> [B, o]. A step
        must call it exactly once for each kernel: a second call would lose a gradient.
      kernels: {name: [i, o], or [G, i / G, o / G] for block-diagonal ones}.
      rest: other parameters, a pytree; their gradients are accumulated step by step.
      carry: pytree of arrays [B, ...].
      xs: pytree of arrays [T, ...], of at least one array.

    Returns:
      the last carry and ys [T, ...], as lax.scan does. All arguments but `step` have
      gradients. In the backward pass, raises KeyError for a kernel that is not used.
    """

    def body(carry, x):
        return step(lambda name, v: product(v, kernels[name]), rest, carry, x)

    return jax.lax.scan(body, carry, xs)


@jax.custom_vjp
def product_with_spy(x, kernel, spy):
    """product(x, kernel); `spy`, of any values, receives the gradient of the product.

    The kernel's own gradient is zero: `scan` computes it later, from all steps at once.
    """
    return product(x, kernel)


def product_fwd(x, kernel, spy):
    return product(x, kernel), kernel


def product_bwd(kernel, dy):
    return product(dy, kernel.swapaxes(-1, -2)), jnp.zeros_like(kernel), dy


product_with_spy.defvjp(product_fwd, product_bwd)


def scan_fwd(step, kernels, rest, carry, xs):
    fixed = jax.lax.stop_gradient(kernels)
    length = len(jax.tree.leaves(xs)[0])
    outs = widths(step, kernels, rest, carry, xs)
    spies = {k: jnp.zeros((length, *s.shape), s.dtype) for k, s in outs.items()}

    def run(rest, carry, xs, spies):
        def body(carry, inputs):
            x, spy = inputs
            seen = {}

            def dot(name, v):
                seen[name] = v
                return product_with_spy(v, fixed[name], spy[name])

            carry, y = step(dot, rest, carry, x)
            return carry, (y, seen)

        carry, (ys, seen) = jax.lax.scan(body, carry, (xs, spies))
        return (carry, ys), seen

    out, back, seen = jax.vjp(run, rest, carry, xs, spies, has_aux=True)
    return out, (back, seen, kernels)


def widths(step, kernels, rest, carry, xs) -> dict:
    """{name: shape and dtype} of the products of one step."""

    def one(kernels, rest, carry, x):
        made = {}

        def dot(name, v):
            made[name] = product(v, kernels[name])
            return made[name]

        step(dot, rest, carry, x)
        return made

    first = jax.tree.map(lambda x: x[0], xs)
    return jax.eval_shape(one, kernels, rest, carry, first)


def scan_bwd(step, saved, cotangent):
    back, seen, kernels = saved
    drest, dcarry, dxs, dys = back(cotangent)
    dkernels = {k: kernel_gradient(seen[k], dys[k], w) for k, w in kernels.items()}
    return dkernels, drest, dcarry, dxs


def kernel_gradient(x, dy, kernel):
    """Gradient of a kernel, from its inputs [T, B, i] and output gradients [T, B, o]."""
    if kernel.ndim == 2:
        return jnp.einsum("tbi,tbo->io", x, dy).astype(kernel.dtype)
    G, i, o = kernel.shape
    x, dy = x.reshape(*x.shape[:2], G, i), dy.reshape(*dy.shape[:2], G, o)
    return jnp.einsum("tbgi,tbgo->gio", x, dy).astype(kernel.dtype)


scan.defvjp(scan_fwd, scan_bwd)
