"""What a device's own program knows of the mesh that it is a part of.

Inside `core/parallel/gradients.py` every device runs its own rows by its own program; functions
here say what it gets from others. Elsewhere, and without a mesh, they do nothing.
"""

import functools

import jax
from jax.sharding import PartitionSpec

from core.parallel.layouts import RULES, axis_tuple, partition_spec, restrict_to_axes


def current_mesh():
    """The mesh of `jax.set_mesh`; None without one, or where it is one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x, *names):
    """Fix the layout of an activation by logical names, over the axes that the compiler
    splits; does nothing where there are none."""
    mesh = current_mesh()
    if mesh is None or not mesh.auto_axes:
        return x
    parts = partition_spec(mesh, names, x.shape)
    return jax.lax.with_sharding_constraint(x, restrict_to_axes(parts, mesh.auto_axes))


def manual_axes() -> tuple[str, ...]:
    """Axes over which this code runs on its own part and says what it exchanges."""
    mesh = current_mesh()
    axes = () if mesh is None else mesh.manual_axes
    return tuple(axis for axis in axes if mesh.shape[axis] > 1)


def gather_weight(x, split: PartitionSpec, dtype):
    """The whole of a weight that is split over `fsdp`, sent in `dtype`."""
    for axis, part in enumerate(split):
        if "fsdp" in axis_tuple(part):
            x = jax.lax.all_gather(x.astype(dtype), "fsdp", axis=axis, tiled=True)
    return x


def all_gather_rows(x, axis: int = 0):
    """Rows of all devices, where each has its own."""
    axes = tuple(a for a in RULES["batch"] if a in manual_axes())
    return jax.lax.all_gather(x, axes, axis=axis, tiled=True) if axes else x


def split_over_sequence(f, tree, axis: int = 0):
    """f(tree), where devices of `sequence` each take a part of `axis` of all arrays.

    What f gives has that axis in front, and does not depend on how it is cut.
    """
    ways = current_mesh().shape["sequence"] if "sequence" in manual_axes() else 1
    steps = jax.tree.leaves(tree)[0].shape[axis]
    if ways == 1 or steps % ways:
        return f(tree)
    own = functools.partial(local_part, "sequence", axis=axis)
    found = f(jax.tree.map(own, tree))
    together = functools.partial(jax.lax.all_gather, axis_name="sequence", tiled=True)
    return jax.tree.map(together, found)


def local_part(mesh_axis: str, x, axis: int = 1):
    """The part of `axis` that is this device's along a mesh axis."""
    size = x.shape[axis] // jax.lax.axis_size(mesh_axis)
    start = jax.lax.axis_index(mesh_axis) * size
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)
