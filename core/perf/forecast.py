"""Forecasts memory, communication and step time on machines that are not available.

The train step is compiled ahead of time and not run. Times are arithmetic with published
rates: `bound` assumes that all resources overlap, `serial` that none do.
"""

import collections
import copy
import math
import re
import time

import jax

from core import hardware
from core.config import check_config
from core.method import open_source
from core.parallel.batches import batch_sharding
from core.parallel.layout_report import local_bytes, replicated
from core.parallel.layouts import unbox
from core.perf import communication, hlo
from core.program import Program, plan_program
from core.runs.checkpoint import abstract

FULL = 0.9  # share of a device's memory that a step may use
CHIPS = 4096  # the most devices of the weak scaling forecast
# XLA cannot autotune kernels without the GPU.
OPTIONS = {"gpu": {"xla_gpu_autotune_level": "0"}, "tpu": {}}


def forecast(config, machine: hardware.Machine) -> dict:
    """Forecast the train step of a config on a machine; returns numbers by name.

    Bytes and seconds are of one device and one step; INTRO in core/perf/tables.py defines
    them. If the step does not fit in memory, "fits" is False and "cure" says what to
    change. Raises ValueError if the config cannot run on the machine.
    """
    check_config(config.to_dict())
    config, chip = copy.deepcopy(config), machine.chip
    if "workers" in config.get("data", {}):
        config.data.workers = 0  # only one batch is read, for its shapes
    devices = hardware.devices_of(machine)
    method, plan = plan_program(config, devices=devices, platform=chip.platform)
    mesh = plan.mesh
    found = {
        "machine": machine.name,
        "devices": machine.devices,
        "mesh": {axis: n for axis, n in mesh.shape.items() if n > 1},
        "batch": method.batch,
        "state_bytes": state_bytes(plan),
        "replicated": replicated(plan.shapes, plan.layouts),
        "accumulate": config.accumulate,
        "device_bytes": chip.memory,
        "device_flops": chip.flops,
        "flops_useful": method.costs.flops,
        "flops_executed": method.costs.flops + method.costs.recomputed,
    }
    begin = time.perf_counter()
    try:
        compiled = compile_for(chip.platform, lower_step(method, plan))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = parse_needed_bytes(str(error))
        return found | memory_fit(needed, chip, method, config.accumulate)
    found["compile_seconds"] = time.perf_counter() - begin
    memory, text = compiled.memory_analysis(), compiled.as_text()
    found |= memory_fit(peak_bytes(memory), chip, method, config.accumulate)
    found["argument_bytes"] = memory.argument_size_in_bytes
    found["temporary_bytes"] = memory.temp_size_in_bytes
    sent = hlo.collectives(text, mesh)
    found["collectives"] = by_kind(sent)
    found["sent_bytes"] = by_axes(sent)
    least = communication.least_sent(
        method, plan, parts=config.accumulate, dtype=method.costs.dtype
    )
    found["least_bytes"] = least
    if least:
        total = sum(found["sent_bytes"].values()) / sum(least.values())
        found["sent_over_least"] = total
    found |= rooflines(method, machine, mesh, sent, hlo.memory_traffic(text))
    gradients = found["state_bytes"]["params"]  # as many bytes: both are float32
    found["weak_scaling"] = communication.weak_scaling(
        found, machine, gradients, most=CHIPS
    )
    return found


def lower_step(method, plan: Program):
    """The train step lowered for abstract arrays (`jax.stages.Lowered`)."""
    state = abstract(plan.shapes, plan.layouts)
    layout = batch_sharding(plan.mesh, method.batch)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (method.batch, *x.shape), x.dtype, sharding=layout
        ),
        example(method),
    )
    with jax.set_mesh(plan.mesh):
        return plan.step.lower(state, batch)


def example(method):
    """Arrays of one training example: of the method's tools, else from its data."""
    if method.tools.example is not None:
        return method.tools.example()
    with open_source(method, (0, method.batch)) as source:
        return jax.tree.map(lambda x: x[0], source.next())


def compile_for(platform: str, program):
    """Compile a lowered program ahead of time."""
    options = OPTIONS[platform]
    try:
        return program.compile(options)
    except jax.errors.JaxRuntimeError as error:
        # Without autotuning, XLA's Triton kernels do not support all shapes of matrix
        # products; the others do, but read more memory for small products.
        if "find output tile sizes" not in str(error):
            raise
        return program.compile(options | {"xla_gpu_enable_triton_gemm": False})


def state_bytes(plan) -> dict[str, int]:
    """Bytes per device of each field of the state."""
    shapes = unbox(plan.shapes)
    found = {}
    for name in shapes.__dataclass_fields__:
        leaves = jax.tree.leaves(getattr(shapes, name))
        layouts = jax.tree.leaves(getattr(plan.layouts, name))
        found[name] = sum(map(local_bytes, leaves, layouts))
    return found


def peak_bytes(memory) -> int:
    """Peak bytes on a device, from XLA's memory analysis."""
    whole = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return max(whole + fresh, memory.peak_memory_in_bytes)


def parse_needed_bytes(error: str) -> float:
    """Bytes that a program needs, from an out-of-memory error of XLA; NaN if unknown."""
    found = re.search(r"Used ([\d.]+)([KMGT]?)", error)
    if not found:
        found = re.search(r"\(([\d.]+)([KMGT])\) exceeds", error)
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return float(found[1]) * units[found[2]] if found else math.nan


def memory_fit(needed: float, chip, method, accumulate: int) -> dict:
    """Whether `needed` bytes fit on a chip; "cure" says what to change if not."""
    share = needed / chip.memory
    found = {"peak_bytes": needed, "memory_share": share, "fits": share <= FULL}
    if not found["fits"]:
        over = (needed - FULL * chip.memory) / 2**30
        cure = method.costs.memory_hint or (
            f"raise accumulate (it is {accumulate}), split the state over more devices "
            "by mesh.fsdp, or lower batch"
        )
        found["cure"] = f"{over:.1f} GiB too much; {cure}"
    return found


def by_kind(sent) -> list[dict]:
    """Counts and bytes of collectives, summed by kind and mesh axes."""
    table = collections.defaultdict(lambda: [0, 0.0])
    for one in sent:
        row = table[one.kind, one.axes]
        row[0] += one.times
        row[1] += one.sent
    return [
        {"kind": kind, "axes": list(axes), "count": count, "bytes": size}
        for (kind, axes), (count, size) in sorted(table.items())
    ]


def by_axes(sent) -> dict[str, float]:
    """{"axis" or "axis+axis": bytes that a device sends in a step}."""
    table = collections.Counter()
    for one in sent:
        table["+".join(one.axes)] += one.sent
    return dict(table)


def rooflines(method, machine, mesh, sent, moved: float) -> dict:
    """Roofline model: seconds that each resource is busy in a step, step time and MFU.

    moved: bytes of memory traffic of a device.
    """
    chip, n = machine.chip, machine.devices
    seconds = {
        "compute": (method.costs.flops + method.costs.recomputed) / n / chip.flops,
        "memory": moved / chip.bandwidth,
    }
    rates = {a: hardware.link_rate(machine, mesh, a) for a in mesh.axis_names}
    fixed = 0.0  # seconds on links that do not depend on the number of copies
    for one in sent:
        rate = min(rates[axis] for axis in one.axes)
        name = "network" if rate == chip.network else "links"
        seconds[name] = seconds.get(name, 0.0) + one.sent / rate
        fixed += one.sent / rate * (not {"data", "replica"} & set(one.axes))
    bound, serial = max(seconds.values()), sum(seconds.values())
    ideal = method.costs.flops / n / chip.flops
    return {
        "memory_traffic_bytes": moved,
        "seconds": seconds,
        "fixed_link_seconds": fixed,
        "data_rate": rates["data"],
        "dominated_by": max(seconds, key=seconds.get),
        "step_seconds_bound": bound,
        "step_seconds_serial": serial,
        "mfu_bound": ideal / bound,
        "mfu_serial": ideal / serial,
    }
