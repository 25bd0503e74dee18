"""Gradients of a large batch, part by part."""

import math

import jax
import jax.numpy as jnp

from core import sharding


def mean_gradients(grad_fn, batch: dict, *, parts: int):
    """grad_fn(batch) -> ((loss, (metrics, rows)), gradients), from `parts` of the batch.

    Loss, metrics and gradients are means over the parts: those of the whole batch where
    the loss is a mean over its rows. `rows`, arrays with a row for each of the batch, are
    put together again. Every part takes rows from every device, so that none is moved.
    """
    if parts == 1:
        return grad_fn(batch)
    B = len(jax.tree.leaves(batch)[0])
    mesh = sharding.in_use()
    ways = 1 if mesh is None else sharding.batch_ways(mesh)
    if B % (parts * ways):
        raise ValueError(
            f"batch {B} does not divide into {parts} parts (accumulate) over {ways} "
            f"devices; use accumulate {math.gcd(B // ways, parts)}, or a batch of "
            f"{-(-B // (parts * ways)) * parts * ways}"
        )

    def cut(x):
        x = x.reshape(B // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return sharding.constrain(x, None, "batch", *(None,) * (x.ndim - 2))

    def join(x):
        return x.swapaxes(0, 1).reshape(B, *x.shape[2:])

    def apart(part):
        (total, (metrics, rows)), grads = grad_fn(part)
        return (total, metrics, grads), rows

    def add(sums, part):
        found, rows = apart(part)
        return jax.tree.map(jnp.add, sums, found), rows

    batch = jax.tree.map(cut, batch)
    shapes, _ = jax.eval_shape(apart, jax.tree.map(lambda x: x[0], batch))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    sums, rows = jax.lax.scan(add, zeros, batch)
    total, metrics, grads = jax.tree.map(lambda x: x / parts, sums)
    return (total, (metrics, jax.tree.map(join, rows))), grads
