"""A scan over time that leaves the gradients of its weights for one product at the end.

Differentiated as it stands, a scan adds each step's weight gradients to a carry: as many
small products, and as many passes over every weight, as there are steps.
"""

import functools

import jax
import jax.numpy as jnp

from dreamer.layers import product


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(step, kernels: dict, rest, carry, xs):
    """lax.scan of step(dot, rest, carry, x) -> (carry, y), where dot(name, x) multiplies.

    kernels: matrices by name, each used once a step. rest: other parameters, small.
    """

    def body(carry, x):
        return step(lambda name, v: product(v, kernels[name]), rest, carry, x)

    return jax.lax.scan(body, carry, xs)


@jax.custom_vjp
def spied(x, kernel, spy):
    """product(x, kernel), whose gradient before the product goes to `spy`."""
    return product(x, kernel)


def spied_fwd(x, kernel, spy):
    return product(x, kernel), kernel


def spied_bwd(saved, dy):
    kernel = saved
    return product(dy, kernel.swapaxes(-1, -2)), jnp.zeros_like(kernel), dy


spied.defvjp(spied_fwd, spied_bwd)


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
                return spied(v, fixed[name], spy[name])

            carry, y = step(dot, rest, carry, x)
            return carry, (y, seen)

        carry, (ys, seen) = jax.lax.scan(body, carry, (xs, spies))
        return (carry, ys), seen

    out, back, seen = jax.vjp(run, rest, carry, xs, spies, has_aux=True)
    return out, (back, seen, kernels)


def widths(step, kernels, rest, carry, xs) -> dict:
    """Shape of every product of one step."""

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
    """Outer products [T, B, i] x [T, B, o], summed over steps and rows."""
    if kernel.ndim == 2:
        return jnp.einsum("tbi,tbo->io", x, dy).astype(kernel.dtype)
    G, i, o = kernel.shape
    x, dy = x.reshape(*x.shape[:2], G, i), dy.reshape(*dy.shape[:2], G, o)
    return jnp.einsum("tbgi,tbgo->gio", x, dy).astype(kernel.dtype)


scan.defvjp(scan_fwd, scan_bwd)
