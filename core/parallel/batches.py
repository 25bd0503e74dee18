"""Splits a global batch over a mesh and over processes."""

import math

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core.parallel.layouts import RULES, AnyMesh


def batch_ways(mesh: AnyMesh) -> int:
    """Number of parts that the batch axes of a mesh split a batch into."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def batch_sharding(mesh: Mesh, size: int) -> NamedSharding:
    """Layout of a batch of `size` samples along its first axis.

    Raises ValueError where the devices do not divide it.
    """
    ways = batch_ways(mesh)
    if size % ways:
        raise ValueError(
            f"batch {size} does not divide over {ways} devices of the mesh; "
            f"use {max(ways, size // ways * ways)} or {(size // ways + 1) * ways}"
        )
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def host_shard(mesh: Mesh, size: int) -> tuple[int, int]:
    """(index, count): the slice of the global batch that this process must load.

    It depends on the positions of the process's devices in the batch, not on its index:
    processes that hold the same rows load the same slice. Raises ValueError where its
    rows are not contiguous.
    """
    layout = batch_sharding(mesh, size)
    rows = layout.addressable_devices_indices_map((size,)).values()
    spans = sorted({s[0].indices(size)[:2] for s in rows if s})
    low, high = spans[0][0], spans[-1][1]
    if sum(b - a for a, b in spans) != high - low:
        raise ValueError(
            "this process holds rows of the batch that are not contiguous; expected a mesh "
            "whose batch axes follow the order of the processes"
        )
    return low // (high - low), size // (high - low)


def to_device(mesh: Mesh, batch: dict, size: int) -> dict:
    """This host's rows -> global arrays of `size` rows, split over the batch axes."""
    layout = batch_sharding(mesh, size)

    def put(x):
        return jax.make_array_from_process_local_data(layout, x, (size, *x.shape[1:]))

    # An explicit transfer, which the guard takes for an implicit one with several processes.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(put, batch)
