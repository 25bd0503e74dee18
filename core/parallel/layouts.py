"""Logical axis names become layouts on a device mesh, here alone.

Models name the axes of their weights and activations; `RULES` says which mesh axes split
them. An axis that a mesh axis does not divide stays whole, and the layout report says so.
"""

import math

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core.parallel.mesh import AXES

RULES = {
    "batch": ("replica", "data", "fsdp"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "layers": (),
    "vector": (),
}


class Axis(str):
    """A method's own logical axis name, with the mesh axes that split it, in order."""

    over: tuple[str, ...]

    def __new__(cls, name: str, over: tuple[str, ...]):
        axis = super().__new__(cls, name)
        axis.over = over
        return axis


def mesh_axes(name: str | None) -> tuple[str, ...]:
    """The mesh axes that split a logical axis; raises ValueError if it has no rule."""
    if name is None:
        return ()
    if isinstance(name, Axis):
        return name.over
    if name not in RULES:
        raise ValueError(
            f"logical axis {name!r} has no rule; use one of {', '.join(RULES)}, or "
            "Axis(name, over=mesh axes)"
        )
    return RULES[name]


HOST = "pinned_host"
SMALL = 1 << 16  # bytes of a weight that is not worth splitting


def partition_spec(mesh: Mesh, names, shape) -> PartitionSpec:
    """The layout of one array: each named axis split by its rule where that divides.

    Mesh axes of a rule are used from the left as long as their product divides.
    """
    assert len(names) == len(shape), (names, shape)
    parts, used = [], set()
    for name, size in zip(names, shape, strict=True):
        split, ways = [], 1
        for axis in mesh_axes(name):
            if axis in used or mesh.shape[axis] == 1:
                continue
            if size % (ways * mesh.shape[axis]) == 0:
                split.append(axis)
                ways *= mesh.shape[axis]
        used.update(split)
        parts.append(tuple(split) if len(split) > 1 else split[0] if split else None)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def split_over_fsdp(mesh, found: PartitionSpec, box) -> PartitionSpec:
    """A weight that no rule splits over `fsdp`, split along its longest whole axis."""
    ways, shape = mesh.shape["fsdp"], box.value.shape
    size = math.prod(shape) * np.dtype(box.value.dtype).itemsize
    if "fsdp" in axes_of(found) or ways == 1 or size < SMALL:
        return found
    parts = [*found, *(None,) * (len(shape) - len(found))]
    whole = [
        (n, axis)
        for axis, (n, part, name) in enumerate(
            zip(shape, parts, box.names, strict=True)
        )
        if part is None and n % ways == 0 and name != "layers"
    ]
    if whole:
        parts[max(whole)[1]] = "fsdp"
    return PartitionSpec(*parts)


def restrict_to_axes(spec: PartitionSpec, axes) -> PartitionSpec:
    """A layout without the mesh axes that are not among `axes`."""

    def one(part):
        kept = tuple(a for a in axis_tuple(part) if a in axes)
        return kept if len(kept) > 1 else kept[0] if kept else None

    return PartitionSpec(*map(one, spec))


def axis_tuple(part) -> tuple[str, ...]:
    return part if isinstance(part, tuple) else () if part is None else (part,)


def axes_of(spec: PartitionSpec) -> set[str]:
    """The mesh axes that a layout splits over."""
    return {axis for part in spec for axis in axis_tuple(part)}


def path_name(path) -> str:
    """The path of an array in a tree as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_kernel(name: str) -> bool:
    """Whether an array "a/b/c" is a kernel, by its last part.

    Kernels travel between devices in the compute dtype, all other weights in their own.
    """
    return "kernel" in name.rpartition("/")[2]


def is_box(x) -> bool:
    return isinstance(x, nn.LogicallyPartitioned)


def unbox(tree):
    """Strip axis names from a tree of named arrays."""
    return jax.tree.map(lambda x: x.value if is_box(x) else x, tree, is_leaf=is_box)


def partition_specs(mesh, tree, axes=AXES):
    """Layouts for a tree of named shapes, over `axes` alone; what carries no names is
    replicated."""

    def one(x):
        if not is_box(x):
            return PartitionSpec()
        found = partition_spec(mesh, x.names, x.value.shape)
        return restrict_to_axes(split_over_fsdp(mesh, found, x), axes)

    return jax.tree.map(one, tree, is_leaf=is_box)


def shardings(mesh: Mesh, tree):
    """Placements for a tree of named shapes on the devices of a mesh."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), partition_specs(mesh, tree)
    )


def on_host(mesh: Mesh, layouts, fields: tuple[str, ...]) -> dict:
    """{field: layouts in the memory of the hosts} of some fields of the state."""
    device = mesh.devices.flat[0]
    for field in fields:
        if field not in layouts.__dataclass_fields__:
            known = ", ".join(layouts.__dataclass_fields__)
            raise ValueError(f"offload: the state has no {field!r}; it has {known}")
        kinds = [memory.kind for memory in device.addressable_memories()]
        if HOST not in kinds:
            absent = "" if kinds else " that is not here"  # a GPU's compiler knows none
            raise ValueError(
                f"offload: a {device.device_kind}{absent} knows no {HOST} memory; "
                "leave it empty"
            )
    return {
        field: jax.tree.map(lambda x: x.with_memory_kind(HOST), getattr(layouts, field))
        for field in fields
    }
