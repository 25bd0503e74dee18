"""A train step compiled for a machine that is not here: memory, exchanges, a forecast.

Nothing is run. What is said of speed is arithmetic with published rates: `bound` is a
step in which all that can overlap does, `serial` one in which nothing does.
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

FULL = 0.9  # of a device's memory that a step may take
CHIPS = 4096  # up to which weak scaling is foretold
# XLA cannot time kernels on a GPU that is not there.
OPTIONS = {"gpu": {"xla_gpu_autotune_level": "0"}, "tpu": {}}


def forecast(config, machine: hardware.Machine) -> dict:
    """What the step of a config would be on a machine; see core/perf/tables.py for words.

    Raises ValueError where config and machine do not go together; a step that does not
    fit is told in the result, by "fits" and "cure".
    """
    check_config(config.to_dict())
    config, chip = copy.deepcopy(config), machine.chip
    if "workers" in config.get("data", {}):
        config.data.workers = 0  # one row is all that is read
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
        compiled = compile_for(chip.platform, lowered(method, plan))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = asked_for(str(error))
        return found | fitting(needed, chip, method, config.accumulate)
    found["compile_seconds"] = time.perf_counter() - begin
    memory, text = compiled.memory_analysis(), compiled.as_text()
    found |= fitting(taken(memory), chip, method, config.accumulate)
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
    gradients = found["state_bytes"]["params"]  # as many, in float32
    found["weak_scaling"] = communication.weak_scaling(
        found, machine, gradients, most=CHIPS
    )
    return found


def lowered(method, plan: Program):
    """The step's program for shapes alone."""
    state = abstract(plan.shapes, plan.layouts)
    layout = batch_sharding(plan.mesh, method.batch)
    with open_source(method, (0, method.batch)) as source:
        row = source.next()
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (method.batch, *x.shape[1:]), x.dtype, sharding=layout
        ),
        row,
    )
    with jax.set_mesh(plan.mesh):
        return plan.step.lower(state, batch)


def compile_for(platform: str, program):
    """Compile a lowered program for devices that are not here."""
    options = OPTIONS[platform]
    try:
        return program.compile(options)
    except jax.errors.JaxRuntimeError as error:
        # Untimed, XLA's own kernels for matrix products fit most shapes only; others fit
        # all, but read more where a product is small.
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


def taken(memory) -> int:
    """Bytes of a device that a step needs at its peak."""
    whole = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return max(whole + fresh, memory.peak_memory_in_bytes)


def asked_for(error: str) -> float:
    """Bytes that a program would have needed, from its compiler's complaint."""
    found = re.search(r"Used ([\d.]+)([KMGT]?)", error)
    if not found:
        found = re.search(r"\(([\d.]+)([KMGT])\) exceeds", error)
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return float(found[1]) * units[found[2]] if found else math.nan


def fitting(needed: float, chip, method, accumulate: int) -> dict:
    """Whether `needed` bytes fit on a chip and, if not, the setting to change first."""
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
    """Exchanges of a step, added up by kind and mesh axes."""
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
    """Bytes that a device sends in a step along each mesh axis, or several together."""
    table = collections.Counter()
    for one in sent:
        table["+".join(one.axes)] += one.sent
    return dict(table)


def rooflines(method, machine, mesh, sent, moved: float) -> dict:
    """Seconds that each resource is busy in a step, and what follows."""
    chip, n = machine.chip, machine.devices
    seconds = {
        "compute": (method.costs.flops + method.costs.recomputed) / n / chip.flops,
        "memory": moved / chip.bandwidth,
    }
    rates = {a: hardware.link_rate(machine, mesh, a) for a in mesh.axis_names}
    fixed = 0.0  # on links, and the same on any number of copies
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
