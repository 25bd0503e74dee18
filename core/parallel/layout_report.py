"""Layout report: shape, layout and bytes per device of every array of a state."""

import math

import jax
import numpy as np

from core.parallel.layouts import path_name, unbox

LARGE = 1 << 20  # bytes; replicated arrays of this size are reported


def local_bytes(x, layout) -> int:
    """Bytes of one array on one device."""
    return math.prod(layout.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize


def named_arrays(shapes, layouts):
    """Yields (name, shape, layout) of every array; shapes may be boxed."""
    leaves = jax.tree_util.tree_leaves_with_path(unbox(shapes))
    for (path, x), layout in zip(leaves, jax.tree.leaves(layouts), strict=True):
        yield path_name(path), x, layout


def replicated(shapes, layouts) -> list[str]:
    """Names of arrays of LARGE bytes or more that are whole on every device."""
    return [
        name
        for name, x, layout in named_arrays(shapes, layouts)
        if layout.is_fully_replicated
        and layout.num_devices > 1
        and local_bytes(x, layout) >= LARGE
    ]


def layout_report(shapes, layouts) -> str:
    """A text table of shape, layout and bytes per device; marks large replicated arrays."""
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
