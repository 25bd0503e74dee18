"""Arithmetic lower bound of communication on a mesh, and weak scaling.

Weights that are split over `fsdp` are gathered as often as the method's `Costs` say; their
gradients are reduce-scattered once per part of a batch, in the compute dtype. The result
is all-reduced over the other axes in float32.
"""

import collections
import math

from core.parallel.layout_report import local_bytes, named_arrays
from core.parallel.layouts import axes_of, is_kernel

# Axes that hold copies of the weights; gradients are summed over them.
COPIES = ("replica", "data")


def ring(size: float, ways: int) -> float:
    """Bytes that a device sends to gather or scatter `size` bytes among `ways` devices."""
    return size * (ways - 1) / ways


def least_sent(method, plan, *, parts: int, dtype) -> dict[str, float]:
    """The fewest bytes that a device has to send in a step, by mesh axis.

    parts: parts that a batch is accumulated in. dtype: of weights on their way.
    """
    mesh, found = plan.mesh, collections.Counter(method.costs.token_traffic(plan.mesh))
    fsdp = mesh.shape["fsdp"]
    for field, gathers in method.costs.gathers.items():
        shapes, layouts = getattr(plan.shapes, field), getattr(plan.layouts, field)
        for name, x, layout in named_arrays(shapes, layouts):
            each = dtype.itemsize if is_kernel(name) else x.dtype.itemsize
            split = axes_of(layout.spec)
            if "fsdp" in split:
                times = gathers + (parts if field == "params" else 0)
                whole = math.prod(x.shape) * each
                found["fsdp"] += times * ring(whole, fsdp)
            if field == "params":
                for axis, ways in summed_axes(mesh, split):
                    local = local_bytes(x, layout)
                    found[axis] += 2 * ring(local, ways)
    return dict(found)


def summed_axes(mesh, split):
    """Yield (axis, size) of the axes that a gradient is all-reduced over, one by one."""
    for axis in ("fsdp", *COPIES):
        if axis not in split and mesh.shape[axis] > 1:
            yield axis, mesh.shape[axis]


def weak_scaling(found: dict, machine, gradients: float, *, most: int) -> list[dict]:
    """Step times with constant work per device on 8 to `most` devices, one dict each.

    One slice grows to its maximum, then the number of slices grows. Only the all-reduce of
    gradients grows. found: a forecast. gradients: their bytes on a device.
    """
    chip, seconds = machine.chip, found["seconds"]
    inside = math.prod(n for axis, n in found["mesh"].items() if axis not in COPIES)
    rate = found["data_rate"]
    fixed = {k: v for k, v in seconds.items() if k in ("compute", "memory")}
    fixed["links"] = found["fixed_link_seconds"]
    rows, devices = [], max(8, inside)
    while devices <= most:
        slices = max(1, devices // chip.slice) if chip.dimensions else 1
        copies = devices // inside
        now = dict(fixed)
        if chip.dimensions:
            now["links"] += 2 * ring(gradients, copies // slices) / rate
            now["network"] = 2 * ring(gradients, slices) / chip.network
        else:
            over = chip.network if devices > 8 else chip.link
            now["network"] = 2 * ring(gradients, copies) / over
        rows.append(
            {
                "devices": devices,
                "slices": slices,
                "step_seconds_bound": max(now.values()),
                "step_seconds_serial": sum(now.values()),
            }
        )
        devices *= 2
    for row in rows:
        row["efficiency_serial"] = (
            rows[0]["step_seconds_serial"] / row["step_seconds_serial"]
        )
        row["efficiency_bound"] = (
            rows[0]["step_seconds_bound"] / row["step_seconds_bound"]
        )
    return rows
