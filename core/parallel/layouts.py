"""Maps logical axis names to layouts on a device mesh; the only place that does.

Models name the axes of their weights and activations; RULES lists the mesh axes that
split each. An axis that a mesh axis does not divide stays whole; the layout report shows
it.
"""

import math

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from core.parallel.mesh import AXES

AnyMesh = Mesh | AbstractMesh

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
    """The mesh axes that split a logical axis; raises ValueError if it has no rule.

    None is an axis that is never split.
    """
    if name is None:
        return ()
    if isinstance(name, Axis):
        return name.over
    if name not in RULES:
        raise ValueError(
            f"logical axis {name!r} has no rule; expected one of {', '.join(RULES)}, or "
            "Axis(name, over=mesh axes)"
        )
    return RULES[name]


HOST = "pinned_host"
SMALL = 1 << 16  # bytes; smaller weights are not split along unnamed axes


def partition_spec(mesh: AnyMesh, names, shape) -> PartitionSpec:
    """The layout of one array with one logical name (or None) per axis.

    Mesh axes of a rule are used from the left while their product divides the size, and
    each at most once per array.
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


def split_over_fsdp(mesh: AnyMesh, found: PartitionSpec, box) -> PartitionSpec:
    """Split a boxed weight that no rule splits over `fsdp` along its longest whole axis.

    Weights of less than SMALL bytes keep the layout `found`.
    """
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
    """A layout with only those of its mesh axes that are among `axes`."""

    def one(part):
        kept = tuple(a for a in axis_tuple(part) if a in axes)
        return kept if len(kept) > 1 else kept[0] if kept else None

    return PartitionSpec(*map(one, spec))


def axis_tuple(part) -> tuple[str, ...]:
    """The mesh axes of one entry of a PartitionSpec."""
    return part if isinstance(part, tuple) else () if part is None else (part,)


def axes_of(spec: PartitionSpec) -> set[str]:
    """The mesh axes that a layout splits over."""
    return {axis for part in spec for axis in axis_tuple(part)}


def path_name(path) -> str:
    """The path of an array in a tree as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_kernel(name: str) -> bool:
    """Whether an array "a/b/c" is a kernel, by its last part.

    Kernels are gathered in the compute dtype, all other weights in their own.
    """
    return "kernel" in name.rpartition("/")[2]


def is_box(x) -> bool:
    """Whether x is an array boxed with its logical axis names."""
    return isinstance(x, nn.LogicallyPartitioned)


def unbox(tree):
    """The tree with arrays in place of boxed arrays."""
    return jax.tree.map(lambda x: x.value if is_box(x) else x, tree, is_leaf=is_box)


def partition_specs(mesh: AnyMesh, tree, axes=AXES):
    """PartitionSpecs of a tree of boxed shapes, over the mesh axes `axes` only.

    Shapes without names are replicated.
    """

    def one(x):
        if not is_box(x):
            return PartitionSpec()
        found = partition_spec(mesh, x.names, x.value.shape)
        return restrict_to_axes(split_over_fsdp(mesh, found, x), axes)

    return jax.tree.map(one, tree, is_leaf=is_box)


def shardings(mesh: Mesh, tree):
    """NamedShardings of a tree of boxed shapes."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), partition_specs(mesh, tree)
    )


def on_host(mesh: Mesh, layouts, fields: tuple[str, ...]) -> dict:
    """{field: layouts in host memory} of some fields of the state.

    Raises ValueError for an unknown field and on devices without host memory.
    """
    device = mesh.devices.flat[0]
    for field in fields:
        if field not in layouts.__dataclass_fields__:
            known = ", ".join(layouts.__dataclass_fields__)
            raise ValueError(
                f"offload: the state has no field {field!r}; expected one of {known}"
            )
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
