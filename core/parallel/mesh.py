"""Device meshes with five named axes; `replica`, the first, spans TPU slices."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh

AXES = ("replica", "data", "fsdp", "sequence", "tensor")


def make_mesh(*, devices=None, **sizes: int) -> Mesh:
    """A mesh from axis sizes, 1 if not given; one size may be -1, all remaining devices.

    devices: all by default. Raises ValueError for sizes that do not fit them.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(sizes, len(devices))
    return Mesh(
        arrange_devices(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )


def mesh_shape(sizes: dict[str, int], devices: int) -> list[int]:
    """The sizes of all AXES for a number of devices.

    Raises ValueError for unknown axes and sizes that do not fit.
    """
    unknown = sorted(set(sizes) - set(AXES))
    if unknown:
        raise ValueError(f"mesh axis {unknown[0]!r} is unknown; axes are {AXES}")
    shape = [sizes.get(axis, 1) for axis in AXES]
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) > 1 or any(n < 1 and n != -1 for n in shape):
        raise ValueError(
            f"mesh sizes are {sizes}; expected positive integers and at most one -1"
        )
    if -1 in shape:
        if devices % known:
            near = max(n for n in range(1, known) if devices % n == 0)
            raise ValueError(
                f"mesh sizes {sizes} take {known} devices at once but there are "
                f"{devices}; use sizes whose product divides that, such as {near}"
            )
        shape[shape.index(-1)] = devices // known
    if math.prod(shape) != devices:
        raise ValueError(
            f"mesh {dict(zip(AXES, shape, strict=True))} needs {math.prod(shape)} devices "
            f"but there are {devices}; set one axis to -1 to take the remaining devices"
        )
    return shape


def arrange_devices(shape: Sequence[int], devices) -> np.ndarray:
    """Devices in the shape of a mesh; axes other than `replica` stay within a TPU slice.

    Neighbors on the mesh are neighbors on the slice's torus where possible. Raises
    ValueError where `replica` is not a multiple of the slices.
    """
    slices = len({getattr(d, "slice_index", None) or 0 for d in devices})
    if slices > 1 and shape[0] % slices:
        raise ValueError(
            f"mesh.replica is {shape[0]} but there are {slices} TPU slices; use {slices}"
        )
    if slices == 1:
        make = mesh_utils.create_device_mesh
        return make(tuple(shape), devices, allow_split_physical_axes=True)
    inside = (shape[0] // slices, *shape[1:])
    across = (slices, *(1 for _ in shape[1:]))
    return mesh_utils.create_hybrid_device_mesh(
        inside, across, devices, allow_split_physical_axes=True
    )


def copy_to_local_mesh(mesh: Mesh, tree):
    """(mesh, arrays) for work without collectives between processes.

    A single process gets its arguments back. Of several, each gets its own copy of the
    arrays on the host and a mesh of its own devices, so that it never waits for others.
    All processes must call this: it gathers the arrays.
    """
    if jax.process_count() == 1:
        return mesh, tree
    copies = multihost_utils.process_allgather(tree, tiled=True)
    return make_mesh(fsdp=-1, devices=jax.local_devices()), copies
