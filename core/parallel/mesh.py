"""Device meshes: five named axes over all devices, slices of TPUs in front."""

import math

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh

AXES = ("replica", "data", "fsdp", "sequence", "tensor")


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
    return Mesh(
        arrange_devices(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )


def arrange_devices(shape, devices) -> np.ndarray:
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


def copy_to_local_mesh(mesh: Mesh, tree):
    """(mesh, arrays) for work that no other process takes part in.

    One process keeps its mesh. Of several, each gets its own copy on the host and a mesh
    of its own devices: then nothing it does can wait for the others.
    """
    if jax.process_count() == 1:
        return mesh, tree
    copies = multihost_utils.process_allgather(tree, tiled=True)
    return make_mesh(fsdp=-1, devices=jax.local_devices()), copies
