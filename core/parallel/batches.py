"""Batches: how a global batch is split over a mesh and over processes."""

import math

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core.parallel.layouts import RULES


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
