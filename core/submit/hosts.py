"""The machines of a job: what one host holds, how many hosts, how many slices."""

import difflib
import math
import re
from typing import NamedTuple

from core import hardware

KINDS = (*hardware.CHIPS, "cpu")


class Hosts(NamedTuple):
    """Equal hosts; a TPU slice or a cluster of GPUs or CPUs has `hosts` of them."""

    kind: str  # "v5e", "h100", "cpu"
    shape: tuple[int, ...]  # of a slice of TPUs; else (hosts, devices of a host)
    slices: int
    hosts: int  # of one slice
    chips: int  # of one host

    @property
    def platform(self) -> str:
        return "cpu" if self.kind == "cpu" else hardware.CHIPS[self.kind].platform

    @property
    def topology(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def nodes(self) -> int:
        return self.slices * self.hosts

    @property
    def devices(self) -> int:
        return self.nodes * self.chips

    @property
    def per_slice(self) -> int:
        return self.hosts * self.chips


def read(accelerator: str, count: int | None = None, slices: int = 1) -> Hosts:
    """The hosts of "v5e:4x4", "2xv5p:4x4x4", "h100:4x8" or "cpu:2x4".

    GPUs and CPUs are written HOSTSxDEVICES. A kind alone, such as "v5e", takes its shape
    from `count`, the number of chips of all slices. Raises ValueError for unknown kinds
    and shapes, and for a count that is not that of the shape.
    """
    prefix, kind, shape = re.findall(
        r"^(?:(\d+)x(?=[a-z]))?([^:]*):?(.*)", accelerator
    )[0]
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"--accelerator is {accelerator!r}; known kinds are {', '.join(KINDS)}{hint}"
        )
    if prefix and slices not in (1, int(prefix)):
        raise ValueError(f"--accelerator has {prefix} slices, but --slices is {slices}")
    slices = int(prefix or slices)
    if not shape:
        if count is not None:
            return of_shape(kind, shape_of(kind, count, slices), slices)
        raise ValueError(
            f"--accelerator={kind} has no size; write it as {example(kind)}, or give the "
            "number of chips as --count"
        )
    hosts = of_shape(kind, shape, slices)
    if count not in (None, hosts.devices):
        raise ValueError(
            f"--count is {count}, but --accelerator={accelerator} with {slices} slice(s) "
            f"has {hosts.devices} chips"
        )
    return hosts


def of_shape(kind: str, shape: str, slices: int) -> Hosts:
    if kind == "cpu":
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", shape):
            raise ValueError(
                f"--accelerator=cpu:{shape} is no size; write cpu:HOSTSxDEVICES, such as "
                "cpu:2x4"
            )
        sizes = tuple(map(int, shape.split("x")))
    else:
        sizes = hardware.parse(f"{kind}:{shape}").shape
    if kind == "cpu" or hardware.CHIPS[kind].platform == "gpu":
        if slices != 1:
            raise ValueError(
                f"--slices is for TPUs; write the number of hosts in --accelerator="
                f"{kind}:HOSTSxDEVICES"
            )
        return Hosts(kind, sizes, 1, *sizes)
    # Hosts of flat tori hold up to 8 chips if the slice has no more, else 4.
    total = math.prod(sizes)
    flat = hardware.CHIPS[kind].dimensions == 2
    chips = total if flat and total <= 8 else 4
    return Hosts(kind, sizes, slices, total // chips, chips)


def shape_of(kind: str, count: int, slices: int) -> str:
    """The shape of slices that have `count` chips together."""
    each, rest = divmod(count, slices)
    if count < 1 or rest:
        raise ValueError(
            f"--count is {count}; expected a multiple of {slices} slice(s)"
        )
    if kind == "cpu":
        return f"1x{each}"
    chip = hardware.CHIPS[kind]
    if chip.platform == "gpu":
        if each > chip.slice and each % chip.slice:
            raise ValueError(
                f"--count is {count}; expected up to {chip.slice} GPUs, or a multiple of "
                f"{chip.slice}; else write --accelerator={kind}:HOSTSxGPUS"
            )
        return (
            f"1x{each}" if each <= chip.slice else f"{each // chip.slice}x{chip.slice}"
        )
    shape = hardware.nearest_shape(chip, each)
    size = math.prod(map(int, shape.split("x")))
    if size != each:
        raise ValueError(
            f"--count is {count}, but no slice of {kind} is known to have {each} chips; "
            f"the nearest is {kind}:{shape} with {size}"
        )
    return shape


def example(kind: str) -> str:
    """How the size of a kind is written."""
    if kind == "cpu":
        return "cpu:2x4"
    shape = {0: "4x8", 2: "4x4", 3: "4x4x4"}[hardware.CHIPS[kind].dimensions]
    return f"{kind}:{shape}"
