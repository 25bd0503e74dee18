"""One place where logical axis names become layouts on a device mesh.

Models name the axes of their weights and activations; `RULES` says which mesh axes split
them. An axis that a mesh axis does not divide stays whole, and the layout report says so.
"""

import math

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("replica", "data", "fsdp", "sequence", "tensor")

RULES = {
    "batch": ("replica", "data", "fsdp"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "deter": ("tensor",),
    "blocks": ("tensor",),
    "layers": (),
    "vector": (),
}

HOST = "pinned_host"
SMALL = 1 << 16  # bytes of a weight that is not worth splitting
LARGE = 1 << 20  # bytes of an array that should not be on every device


def make_mesh(*, devices=None, **sizes: int) -> Mesh:
    """A mesh over all devices from axis sizes; one size may be -1, "what is left".

    Raises ValueError with the nearest thing that works when sizes do not fit.
    """
    devices = jax.devices() if devices is None else devices
    unknown = sorted(set(sizes) - set(AXES))
    if unknown:
        raise ValueError(f"mesh axis {unknown[0]!r} is unknown; axes are {AXES}")
    shape = [sizes.get(axis, 1) for axis in AXES]
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) > 1 or any(n < 1 and n != -1 for n in shape):
        raise ValueError(f"mesh sizes are {sizes}; use positive integers and one -1")
    if -1 in shape:
        if len(devices) % known:
            near = max(n for n in range(1, known) if len(devices) % n == 0)
            raise ValueError(
                f"mesh sizes {sizes} take {known} devices at once but there are "
                f"{len(devices)}; use sizes whose product divides that, such as {near}"
            )
        shape[shape.index(-1)] = len(devices) // known
    if math.prod(shape) != len(devices):
        raise ValueError(
            f"mesh {dict(zip(AXES, shape, strict=True))} needs {math.prod(shape)} devices "
            f"but there are {len(devices)}; set one axis to -1 to take what is left"
        )
    return Mesh(arranged(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arranged(shape, devices) -> np.ndarray:
    """Devices in the shape of a mesh: `replica` counts slices, the rest lies within one.

    Within a slice neighbours on the mesh are neighbours on the torus where that can be.
    """
    slices = len({getattr(d, "slice_index", None) or 0 for d in devices})
    if slices > 1 and shape[0] % slices:
        raise ValueError(
            f"mesh.replica is {shape[0]} but there are {slices} slices; use {slices}"
        )
    if slices == 1:
        make = mesh_utils.create_device_mesh
        return make(tuple(shape), devices, allow_split_physical_axes=True)
    inside = (shape[0] // slices, *shape[1:])
    across = (slices, *(1 for _ in shape[1:]))
    return mesh_utils.create_hybrid_device_mesh(
        inside, across, devices, allow_split_physical_axes=True
    )


def spec(mesh: Mesh, names, shape) -> PartitionSpec:
    """The layout of one array: each named axis split by its rule where that divides.

    Mesh axes of a rule are used from the left as long as their product divides.
    """
    assert len(names) == len(shape), (names, shape)
    parts, used = [], set()
    for name, size in zip(names, shape, strict=True):
        split, ways = [], 1
        for axis in RULES[name] if name is not None else ():
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


def spread(mesh, found: PartitionSpec, box) -> PartitionSpec:
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


def only(spec: PartitionSpec, axes) -> PartitionSpec:
    """A layout without the mesh axes that are not among `axes`."""

    def one(part):
        kept = tuple(a for a in as_tuple(part) if a in axes)
        return kept if len(kept) > 1 else kept[0] if kept else None

    return PartitionSpec(*map(one, spec))


def as_tuple(part) -> tuple[str, ...]:
    return part if isinstance(part, tuple) else () if part is None else (part,)


def axes_of(spec: PartitionSpec) -> set[str]:
    """The mesh axes that a layout splits over."""
    return {axis for part in spec for axis in as_tuple(part)}


def is_box(x) -> bool:
    return isinstance(x, nn.LogicallyPartitioned)


def unbox(tree):
    """Strip axis names from a tree of named arrays."""
    return jax.tree.map(lambda x: x.value if is_box(x) else x, tree, is_leaf=is_box)


def specs(mesh, tree, axes=AXES):
    """Layouts for a tree of named shapes, over `axes` alone; what carries no names is
    replicated."""

    def one(x):
        if not is_box(x):
            return PartitionSpec()
        found = spec(mesh, x.names, x.value.shape)
        return only(spread(mesh, found, x), axes)

    return jax.tree.map(one, tree, is_leaf=is_box)


def shardings(mesh: Mesh, tree):
    """Placements for a tree of named shapes on the devices of a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(mesh, tree))


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


def batch_ways(mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def batch_sharding(mesh: Mesh, size: int) -> NamedSharding:
    """Layout of a batch of `size` samples along its first axis."""
    ways = batch_ways(mesh)
    if size % ways:
        raise ValueError(
            f"batch {size} does not divide over {ways} devices of the mesh; "
            f"use {max(ways, size // ways * ways)} or {(size // ways + 1) * ways}"
        )
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def host_shard(mesh: Mesh, size: int) -> tuple[int, int]:
    """(index, count): the slice of the global batch that this process must load.

    Derived from where its devices sit in the batch, never from its number: processes
    that hold the same rows get the same answer.
    """
    layout = batch_sharding(mesh, size)
    rows = layout.addressable_devices_indices_map((size,)).values()
    spans = sorted({s[0].indices(size)[:2] for s in rows})
    low, high = spans[0][0], spans[-1][1]
    if sum(b - a for a, b in spans) != high - low:
        raise ValueError(
            "this process holds scattered rows of the batch; reorder the mesh"
        )
    return low // (high - low), size // (high - low)


def to_device(mesh: Mesh, batch: dict, size: int) -> dict:
    """Host rows -> global arrays of `size` samples, split over the batch axes."""
    layout = batch_sharding(mesh, size)

    def put(x):
        return jax.make_array_from_process_local_data(layout, x, (size, *x.shape[1:]))

    # This is the transfer that is meant; with several processes jax does not see that.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(put, batch)


def nearby(mesh: Mesh, tree):
    """(mesh, arrays) for work that no other process takes part in.

    One process keeps its mesh. Of several, each gets its own copy on the host and a mesh
    of its own devices: then nothing it does can wait for the others.
    """
    if jax.process_count() == 1:
        return mesh, tree
    copies = multihost_utils.process_allgather(tree, tiled=True)
    return make_mesh(fsdp=-1, devices=jax.local_devices()), copies


def local_bytes(x, layout) -> int:
    """Bytes of an array on one device."""
    return math.prod(layout.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize


def named_arrays(shapes, layouts):
    """(name, shape, layout) of every array."""
    leaves = jax.tree_util.tree_leaves_with_path(unbox(shapes))
    for (path, x), layout in zip(leaves, jax.tree.leaves(layouts), strict=True):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), x, layout


def replicated(shapes, layouts) -> list[str]:
    """Names of large arrays of which every device has a whole copy."""
    return [
        name
        for name, x, layout in named_arrays(shapes, layouts)
        if layout.is_fully_replicated
        and layout.num_devices > 1
        and local_bytes(x, layout) >= LARGE
    ]


def layout_report(shapes, layouts) -> str:
    """A table of every array: shape, layout, bytes per device; large replicated ones marked."""
    whole, rows, total = replicated(shapes, layouts), [], 0
    for name, x, layout in named_arrays(shapes, layouts):
        local = local_bytes(x, layout)
        total += local
        mark = "  REPLICATED" if name in whole else ""
        rows.append(f"{name}  {x.dtype}{list(x.shape)}  {layout.spec}  {local}{mark}")
    head = [
        f"{total / 2**20:.1f} MiB per device in {len(rows)} arrays; "
        f"{len(whole)} of {LARGE / 2**20:.0f} MiB or more are replicated",
        "name  shape  layout  bytes per device",
    ]
    return "\n".join(head + rows) + "\n"
