"""Accelerators by name: peak FLOP/s, memory, links, topologies to compile for, MFU.

Numbers are published by the vendors. The rate of a link is one-way; a TPU chip has two
links along each dimension of its torus. `network` is a chip's share of the bandwidth that
leaves its slice or host.
"""

import difflib
import math
import os
import re
from typing import NamedTuple

import numpy as np
from jax.experimental import topologies

# Dense bfloat16 FLOP/s of one JAX device, from data sheets. TPU names are those in
# jax/_src/pallas/mosaic/tpu_info.py. From v4 to v6 a device is a whole chip, on TPU7x
# one of the chip's two cores (2.31e15 together).
TPU_PEAK = {
    "TPU v4": 275e12,
    "TPU v5e": 197e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6e": 918e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1155e12,
}
# Prefixes of device names such as "NVIDIA H100 80GB HBM3"; the first match counts. PCIe
# and NVL boards have lower clocks than SXM.
GPU_PEAK = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
}


class Chip(NamedTuple):
    """One device: FLOP/s, bytes of memory, bytes per second."""

    platform: str
    flops: float  # bfloat16, dense
    memory: float
    bandwidth: float  # of its memory
    link: float
    network: float
    dimensions: int  # of the torus; 0: the devices of a host share a switch
    slice: int  # maximum number of devices in a slice or host


GIB = 2**30
CHIPS = {
    "v4": Chip("tpu", TPU_PEAK["TPU v4"], 32 * GIB, 1228e9, 50e9, 6.25e9, 3, 4096),
    "v5e": Chip("tpu", TPU_PEAK["TPU v5e"], 16 * GIB, 819e9, 50e9, 3.125e9, 2, 256),
    "v5p": Chip("tpu", TPU_PEAK["TPU v5p"], 95 * GIB, 2765e9, 100e9, 6.25e9, 3, 4096),
    "v6e": Chip("tpu", TPU_PEAK["TPU v6e"], 32 * GIB, 1640e9, 112e9, 12.5e9, 2, 256),
    "h100": Chip(
        "gpu", GPU_PEAK["NVIDIA H100"], 84_929_347_584, 3352e9, 450e9, 50e9, 0, 8
    ),
    "h200": Chip(
        "gpu", GPU_PEAK["NVIDIA H200"], 150_754_820_096, 4800e9, 450e9, 50e9, 0, 8
    ),
}
# Shapes of slices, smallest first; for 3-D tori the common ones.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8",
        "8x8x16", "8x16x16", "16x16x16", "16x16x24")  # fmt: skip
# The target description that XLA needs to compile for a GPU that is not there.
GPU = """gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32
 shared_memory_per_block: 49152 shared_memory_per_core: 233472
 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
 memory_bandwidth: {bandwidth} l2_cache_size: 52428800 clock_rate_ghz: 1.98
 device_memory_size: {memory} shared_memory_per_block_optin: 232448
 cuda_compute_capability {{ major: 9 minor: 0 }} registers_per_core_limit: 65536
 registers_per_block_limit: 65536 }} platform_name: "CUDA"
 dnn_version_info {{ major: 9 minor: 8 }} runtime_version {{ major: 12 minor: 8 }}
 device_description_str: "{name}" """
# libtpu then needs no TPU and does not lock it.
COMPILER_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
TITLES = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}


class Machine(NamedTuple):
    """Some slices of one kind of chip: "v5p:4x4x8", "h100:64x8" (hosts x GPUs)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def devices(self) -> int:
        return self.slices * math.prod(self.shape)


def parse(name: str, slices: int = 1) -> Machine:
    """The machine of a name: "v5e:16x16", "h200:1x8" or, with two slices, "2xv5e:16x16".

    slices: their number if the name has none. Raises ValueError, with the nearest machine,
    if there is no such one.
    """
    count, rest = re.fullmatch(r"(?:(\d+)x(?=[a-z]))?(.*)", name).groups()
    slices = int(count) if count else slices
    kind, _, text = rest.partition(":")
    if kind not in CHIPS:
        close = difflib.get_close_matches(kind, CHIPS, 1, cutoff=0.4) or ["v5e"]
        raise ValueError(
            f"topology {name!r}: there is no accelerator {kind!r}; the nearest is "
            f"{close[0]!r} of {', '.join(CHIPS)}"
        )
    parts = text.split("x")
    fits = all(p.isdigit() and int(p) > 0 for p in parts)
    shape = tuple(map(int, parts)) if fits else ()
    if CHIPS[kind].platform == "gpu":
        if len(shape) != 2 or shape[1] > CHIPS[kind].slice:
            raise ValueError(
                f"topology {name!r} does not exist; write {kind}:HOSTSxGPUS with up to "
                f"{CHIPS[kind].slice} GPUs a host, such as {kind}:4x8"
            )
    elif not is_slice(CHIPS[kind], shape):
        near = nearest_shape(CHIPS[kind], math.prod(shape))
        raise ValueError(
            f"topology {name!r} does not exist; the nearest is {kind}:{near}"
        )
    whole = f"{slices}x{rest}" if slices > 1 else rest
    return Machine(whole, kind, shape, slices)


def is_slice(chip: Chip, shape: tuple[int, ...]) -> bool:
    """Whether there are TPU slices of this shape."""
    if chip.dimensions == 2:
        return "x".join(map(str, shape)) in FLAT
    tall = all(n % 4 == 0 for n in shape) and sorted(shape) == list(shape)
    return len(shape) == 3 and (tall or "x".join(map(str, shape)) in DEEP)


def nearest_shape(chip: Chip, count: int) -> str:
    """The slice shape whose number of chips is nearest to `count`."""
    shapes = FLAT if chip.dimensions == 2 else DEEP
    counts = {shape: math.prod(map(int, shape.split("x"))) for shape in shapes}
    return min(counts, key=lambda shape: abs(math.log(counts[shape] / max(count, 1))))


def devices_of(machine: Machine) -> list:
    """Devices to compile for; they need not exist.

    Raises ValueError if the compiler for this platform is not installed.
    """
    for name, value in COMPILER_ONLY.items():
        os.environ.setdefault(name, value)
    chip, shape = machine.chip, "x".join(map(str, machine.shape))
    try:
        if chip.platform == "gpu":
            info = GPU.format(
                memory=int(chip.memory),
                bandwidth=int(chip.bandwidth),
                name=TITLES[machine.kind],
            )
            options = {"target_config": info, "topology": f"{machine.slices}x{shape}"}
            return topologies.get_topology_desc("", "cuda", **options).devices
        options = {"num_slices": machine.slices} if machine.slices > 1 else {}
        if math.prod(machine.shape) == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        if machine.kind == "v4":
            options["chip_config_name"] = "megacore"  # one device per chip
        name = f"{machine.kind}:{shape}"
        return topologies.get_topology_desc(name, "tpu", **options).devices
    except (RuntimeError, ValueError, ImportError) as error:
        raise ValueError(
            f"topology {machine.name}: its compiler cannot be started "
            f"({str(error).splitlines()[-1][:120]}); pip install -r requirements-compile.txt"
        ) from error


def device_place(device, chip: Chip) -> tuple[int, ...]:
    """(slice, *coordinates) of a TPU, (host, device id) of a GPU."""
    if chip.dimensions:
        return (getattr(device, "slice_index", None) or 0, *device.coords)
    return (device.process_index, device.id)


def link_rate(machine: Machine, mesh, axis: str) -> float:
    """Bytes per second that a device can send along one axis of a mesh.

    On a torus the axis uses both links of each dimension that it spans as a closed ring,
    and one link of each other dimension. Across slices or hosts it is the network's rate.
    """
    chip, index = machine.chip, mesh.axis_names.index(axis)
    row = np.moveaxis(mesh.devices, index, 0).reshape(mesh.shape[axis], -1)[:, 0]
    places = [device_place(device, chip) for device in row]
    first, *rest = zip(*places, strict=True)
    if len(set(first)) > 1:
        return chip.network
    if not chip.dimensions:
        return chip.link
    rate = 0.0
    for along, size in zip(rest, machine.shape, strict=False):
        if len(set(along)) > 1:
            closed = len(set(along)) == size and size >= ring_length(machine.kind)
            rate += chip.link * (2 if closed else 1)
    return rate or chip.link


def ring_length(kind: str) -> int:
    """The smallest length of a torus dimension that is a closed ring."""
    return 16 if CHIPS[kind].dimensions == 2 else 4


def peak_flops(device_kind: str) -> float | None:
    """bfloat16 FLOP/s of a device by `jax.Device.device_kind`; None if unknown or MIG."""
    if device_kind in TPU_PEAK:
        return TPU_PEAK[device_kind]
    if " MIG " in device_kind:
        return None
    rows = (v for name, v in GPU_PEAK.items() if device_kind.startswith(name))
    return next(rows, None)


def mfu(
    flops_per_step: float, seconds: float, devices: int, device_kind: str
) -> float | None:
    """Model FLOP/s utilization, or None if the device's peak is unknown.

    flops_per_step: useful FLOPs of a step over all devices. seconds: of a step.
    """
    peak = peak_flops(device_kind)
    if peak is None or not seconds > 0:
        return None
    return flops_per_step / (seconds * devices * peak)
