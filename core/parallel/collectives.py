"""Collectives and mesh queries inside shard_map; no-ops outside it and without a mesh."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from core.parallel.layouts import RULES, axis_tuple, partition_spec, restrict_to_axes


def current_mesh() -> AbstractMesh | None:
    """The mesh of `jax.set_mesh`; None without one, or where it is one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Fix the layout of an activation by logical names, one per axis.

    Only over the mesh axes that the compiler splits; returns x where there are none.
    """
    mesh = current_mesh()
    if mesh is None or not mesh.auto_axes:
        return x
    layout = restrict_to_axes(partition_spec(mesh, names, x.shape), mesh.auto_axes)
    return jax.lax.with_sharding_constraint(x, layout)


def manual_axes() -> tuple[str, ...]:
    """Mesh axes of more than one device over which the enclosing shard_map is manual."""
    mesh = current_mesh()
    if mesh is None:
        return ()
    return tuple(axis for axis in mesh.manual_axes if mesh.shape[axis] > 1)


def gather_weight(x: jax.Array, layout: PartitionSpec, dtype) -> jax.Array:
    """All-gather a weight over `fsdp`, sent in `dtype`; x if its layout does not use it."""
    for axis, part in enumerate(layout):
        if "fsdp" in axis_tuple(part):
            x = jax.lax.all_gather(x.astype(dtype), "fsdp", axis=axis, tiled=True)
    return x


def row_axes() -> tuple[str, ...]:
    """Mesh axes over which the enclosing shard_map splits the rows of the batch."""
    return tuple(axis for axis in RULES["batch"] if axis in manual_axes())


def all_gather_rows(x: jax.Array, axis: int = 0) -> jax.Array:
    """The batch rows of all devices along `axis`, from each device's own."""
    axes = row_axes()
    return jax.lax.all_gather(x, axes, axis=axis, tiled=True) if axes else x


def mean_over_rows(means: Any) -> Any:
    """Means over the rows of all devices, from a tree of means over each device's own."""
    axes = row_axes()
    return jax.lax.pmean(means, axes) if axes else means


def count_rows(rows: int) -> int:
    """The rows of all devices, of which each has `rows`."""
    return rows * math.prod(jax.lax.axis_size(axis) for axis in row_axes())


def split_over_sequence(f: Callable[[Any], Any], tree, axis: int = 0):
    """f(tree), computed in equal parts by the devices of mesh axis `sequence`.

    Args:
      f: maps arrays split along `axis` to arrays with that axis in front; the results of
        the parts, concatenated, must equal f of the whole.
      tree: arrays of equal size along `axis`. Where the devices do not divide that size,
        each computes the whole.
    """
    ways = jax.lax.axis_size("sequence") if "sequence" in manual_axes() else 1
    steps = jax.tree.leaves(tree)[0].shape[axis]
    if ways == 1 or steps % ways:
        return f(tree)
    part = functools.partial(local_part, "sequence", axis=axis)
    gather = functools.partial(jax.lax.all_gather, axis_name="sequence", tiled=True)
    return jax.tree.map(gather, f(jax.tree.map(part, tree)))


def local_part(mesh_axis: str, x: jax.Array, axis: int = 1) -> jax.Array:
    """This device's slice of `axis` of x, of equal slices along a mesh axis."""
    size = x.shape[axis] // jax.lax.axis_size(mesh_axis)
    start = jax.lax.axis_index(mesh_axis) * size
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)
