"""Gradients of a mean loss over a sharded batch, with gradient accumulation.

Every device computes the loss of its own rows inside shard_map, with explicit
collectives: weights are all-gathered over `fsdp` before use (stacked layers one by one,
in core/nn/transformer.py), which scatters their gradients; gradients are summed over
every mesh axis that does not split the weight.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from core.parallel.batches import batch_ways
from core.parallel.collectives import current_mesh, gather_weight
from core.parallel.layouts import (
    RULES,
    axes_of,
    is_box,
    is_kernel,
    partition_specs,
    path_name,
)


def mean_gradients(
    loss_fn, params, frozen, batch, *, like, dtype, parts: int = 1, auto=()
) -> tuple[jax.Array, Any, Any, Any]:
    """(loss, metrics, rows, gradients) of a loss that is a mean over the batch's rows.

    Args:
      loss_fn: (params, frozen, batch) -> (loss, (metrics, rows)); metrics are means over
        rows too, `rows` arrays with one row per example. It sees the rows of one device;
        for terms of all rows it uses core/parallel/collectives.py.
      frozen: arrays without a gradient.
      like: (params, frozen) as boxed shapes, for their layouts.
      dtype: of kernels while they are gathered.
      parts: number of accumulation steps.
      auto: mesh axes that are left to the compiler.

    Raises ValueError where parts and devices do not divide the batch.
    """
    mesh = current_mesh()
    check_parts(batch, parts, 1 if mesh is None else batch_ways(mesh))
    if mesh is None:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        return accumulate(lambda part: grad_fn(params, frozen, part), batch, parts)
    axes = tuple(a for a in mesh.axis_names if mesh.shape[a] > 1 and a not in auto)
    layouts = partition_specs(mesh, like, axes)
    rows = PartitionSpec(tuple(a for a in RULES["batch"] if a in axes))
    replicated = PartitionSpec()
    # The sum over all devices is then the mean over all rows.
    share = 1 / math.prod(mesh.shape[a] for a in axes)

    def local(params, frozen, batch):
        frozen = gather_weights(frozen, layouts[1], like[1], dtype)

        def shared_loss(params, part):
            whole = gather_weights(params, layouts[0], like[0], dtype)
            loss, aux = loss_fn(whole, frozen, part)
            return loss * share, (loss, aux)

        def one(part):
            (_, (loss, aux)), grads = jax.value_and_grad(shared_loss, has_aux=True)(
                params, part
            )
            return (loss, aux), grads

        loss, metrics, out, grads = accumulate(one, batch, parts)
        loss, metrics = jax.lax.pmean((loss, metrics), axes)
        return loss, metrics, out, sum_gradients(grads, layouts[0], axes)

    run = jax.shard_map(
        local,
        in_specs=(*layouts, rows),
        out_specs=(replicated, replicated, rows, layouts[0]),
        axis_names=set(mesh.axis_names) - set(auto),
        check_vma=False,
    )
    return run(params, frozen, batch)


def check_parts(batch, parts: int, ways: int) -> None:
    """Raise ValueError unless the batch divides into parts on each of `ways` devices."""
    B = len(jax.tree.leaves(batch)[0])
    if B % (parts * ways):
        near = max(n for n in range(1, parts + 1) if B % (n * ways) == 0)
        raise ValueError(
            f"batch {B} does not divide into {parts} parts (accumulate) over {ways} "
            f"devices; use accumulate {near}, or a batch of "
            f"{-(-B // (parts * ways)) * parts * ways}"
        )


def accumulate(grad_fn, batch, parts: int):
    """(loss, metrics, rows, gradients): rows of all parts, means of the rest.

    grad_fn: part -> ((loss, (metrics, rows)), gradients). parts: calls in sequence.
    """
    if parts == 1:
        (loss, (metrics, rows)), grads = grad_fn(batch)
        return loss, metrics, rows, grads
    B = len(jax.tree.leaves(batch)[0])

    def separate(part):
        (loss, (metrics, rows)), grads = grad_fn(part)
        return (loss, metrics, grads), rows

    def add(sums, part):
        found, rows = separate(part)
        return jax.tree.map(jnp.add, sums, found), rows

    batch = jax.tree.map(lambda x: x.reshape(parts, B // parts, *x.shape[1:]), batch)
    shapes, _ = jax.eval_shape(separate, jax.tree.map(lambda x: x[0], batch))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    sums, rows = jax.lax.scan(add, zeros, batch)
    loss, metrics, grads = jax.tree.map(lambda x: x / parts, sums)
    return (
        loss,
        metrics,
        jax.tree.map(lambda x: x.reshape(B, *x.shape[2:]), rows),
        grads,
    )


def gather_weights(tree, layouts, like, dtype):
    """Weights gathered over `fsdp`, kernels in `dtype`; stacked layers stay split."""

    def one(path, x, spec, box):
        if is_box(box) and box.names[:1] == ("layers",):
            return x
        return gather_weight(x, spec, dtype if is_kernel(path_name(path)) else x.dtype)

    return jax.tree_util.tree_map_with_path(one, tree, layouts, like)


def sum_gradients(grads, layouts, axes):
    """Gradients summed over the mesh axes that do not split their weights."""

    def one(grad, spec):
        rest = tuple(axis for axis in axes if axis not in axes_of(spec))
        return jax.lax.psum(grad, rest) if rest else grad

    return jax.tree.map(one, grads, layouts)
