"""Collectives and memory traffic of a compiled program, parsed from its HLO text.

XLA's own cost analysis counts the body of a loop once. Here every computation counts as
often as it runs, by the trip counts in the text.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
OP = re.compile(r"([a-z][a-z0-9-]*)\(")
SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
CALLED = re.compile(
    r"\b(?:calls|to_apply|body|branch_computations|called_computations)="
    r"(?:\{([^}]*)\}|%?([\w.-]+))"
)
TRIPS = re.compile(r'known_trip_count"?[:=]\{"n":"(\d+)"')
GROUPS = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")
SCATTERS = "AllReduceScatterFusion"  # the emitter of plain reduce-scatters too
CHANNEL = re.compile(r"channel_id=(\d+)")


class Instruction(NamedTuple):
    """One HLO instruction, as text: name = shape op(arguments)attributes."""

    name: str
    shape: str
    op: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the instructions it takes."""
        return tuple(re.findall(r"%([\w.-]+)", self.arguments))


class Collective(NamedTuple):
    """One collective operation.

    kind: of KINDS. axes: mesh axes it crosses. ways: devices in a group. size: bytes of
    the whole array that a group exchanges. times: how often a step runs it.
    """

    kind: str
    axes: tuple[str, ...]
    ways: int
    size: float
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step, by the optimal ring algorithm."""
        share = (self.ways - 1) / self.ways
        each = {"all-reduce": 2 * share, "collective-permute": 1.0}
        return self.times * self.size * each.get(self.kind, share)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """({computation: its instructions}, name of the entry computation)."""
    found, entry, now = {}, "", []
    for line in text.splitlines():
        if line.endswith("{") and (head := HEAD.match(line)):
            now = found[head[2]] = []
            entry = head[2] if head[1] else entry
        elif match := LINE.match(line):
            name, rest = match.groups()
            if op := next((m for m in OP.finditer(rest) if is_op(rest, m)), None):
                inner, after = split_brackets(rest, op.end() - 1)
                now.append(Instruction(name, rest[: op.start()], op[1], inner, after))
    return found, entry


def is_op(text: str, match) -> bool:
    """Whether a match is the op of a line and not part of a layout such as {1,0:T(8)}."""
    before = text[: match.start()]
    return before.count("{") == before.count("}") and (
        before.count("(") == before.count(")")
    )


def split_brackets(text: str, start: int) -> tuple[str, str]:
    """(text inside the bracket that opens at `start`, text after it)."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return text[start + 1 : i], text[i + 1 :]
    return text[start + 1 :], ""


def bytes_of(shape: str, *, off_chip: bool = False) -> float:
    """Bytes of all arrays in a shape; `off_chip`: only those in the device's main memory."""
    total = 0.0
    for kind, dims, layout in SHAPE.findall(shape):
        if off_chip and "S(" in layout and "S(0)" not in layout:
            continue
        bits = BITS.get(kind)
        if bits is None:
            number = re.search(r"\d+", kind)
            bits = int(number[0]) if number else 0
        total += math.prod(int(n) for n in dims.split(",") if n) * bits / 8
    return total


def called_by(item) -> list[str]:
    """Names of the computations that an instruction calls."""
    return [
        name
        for several, one in CALLED.findall(item.attributes)
        for name in re.findall(r"[\w.-]+", several or one)
    ]


def times_run(found, entry) -> dict[str, int]:
    """{computation: how often it runs in one step}."""
    times: dict[str, int] = defaultdict(int)

    def visit(name, count):
        times[name] += count
        for item in found.get(name, ()):
            trips = 1
            if item.op == "while":
                trips = trips_of(item, found)
            if item.op in KINDS or item.op.startswith(("reduce", "scatter", "sort")):
                continue  # their computation reduces two scalars
            for inner in called_by(item):
                if inner in found:
                    visit(inner, count * trips)

    visit(entry, 1)
    return times


def trips_of(loop, found) -> int:
    """Trip count of a loop: as annotated, else the largest constant of its condition."""
    if known := TRIPS.search(loop.attributes):
        return int(known[1])
    name = re.search(r"condition=%?([\w.-]+)", loop.attributes)
    limits = [
        int(item.arguments)
        for item in found.get(name[1] if name else "", ())
        if item.op == "constant" and item.arguments.isdigit()
    ]
    return max(limits, default=1)


def collectives(text: str, mesh) -> list[Collective]:
    """All collectives of a program.

    text: optimized HLO. mesh: of the program; only `axis_names` and `devices` are used.
    Collectives in groups of one device are left out. An asynchronous collective appears
    with the same channel in several fusions and is counted once. On TPU an all-reduce
    inside a fusion that keeps one device's part is a reduce-scatter.
    """
    found, entry = parse(text)
    times, fused, result = times_run(found, entry), callers_of(found), {}
    scattered = {
        inner
        for items in found.values()
        for item in items
        if SCATTERS in item.attributes
        for inner in called_by(item)
    }
    for name, items in found.items():
        shapes = {item.name: item.shape for item in items}
        for number, item in enumerate(items):
            kind = item.op.removesuffix("-start")
            if kind not in KINDS or not times[name]:
                continue
            if kind == "all-reduce" and name in scattered:
                kind = "reduce-scatter"
            axes, ways = group_of(item.attributes, mesh)
            given = sum(bytes_of(shapes[o]) for o in item.operands if o in shapes)
            size = given * ways if kind == "all-gather" else given
            one = Collective(kind, axes, ways, size, times[name])
            channel = CHANNEL.search(item.attributes)
            apart = name not in fused or not channel
            key = (name, number) if apart else (channel[1], kind, size)
            if ways > 1 and (key not in result or result[key].times > one.times):
                result[key] = one
    return list(result.values())


def callers_of(found) -> dict[str, str]:
    """{fused or asynchronous computation: the outermost one that calls it}."""
    callers = {}
    for name, items in found.items():
        for item in items:
            if item.op == "fusion" or item.op.startswith("async-"):
                for inner in called_by(item):
                    callers[inner] = name
    for inner, outer in callers.items():
        while outer in callers:
            outer = callers[outer]
        callers[inner] = outer
    return callers


def numbers(text: str) -> list[int]:
    """All integers in a text."""
    return [int(n) for n in re.findall(r"\d+", text)]


def group_of(rest: str, mesh) -> tuple[tuple[str, ...], int]:
    """(mesh axes that a collective crosses, devices in a group), from its attributes."""
    if pairs := PAIRS.search(rest):
        ids = numbers(pairs[1])
        places = np.array(np.unravel_index(ids, mesh.devices.shape)).T
        moved = (places[0::2] != places[1::2]).any(0)
        return tuple(a for a, m in zip(mesh.axis_names, moved, strict=True) if m), 2
    group = first_group(rest, mesh.devices.size)
    places = np.array(np.unravel_index(group, mesh.devices.shape))
    axes = [
        a for a, row in zip(mesh.axis_names, places, strict=True) if len(set(row)) > 1
    ]
    return tuple(axes), len(group)


def first_group(rest: str, devices: int) -> list[int]:
    """The first replica group: device numbers in mesh order; all if none is given."""
    if match := GROUPS.search(rest):
        return numbers(match[1].split("}")[0])
    if match := IOTA.search(rest):
        shape, dims = numbers(match[1]), numbers(match[2])
        ids = np.arange(math.prod(dims)).reshape(dims)
        if match[3]:
            ids = ids.transpose(numbers(match[3]))
        return list(ids.reshape(shape)[0].reshape(-1))
    if match := NAMED.search(rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        chosen = re.findall(r"'([^']+)'", match[2])
        ids = np.arange(devices).reshape([int(n) for n in sizes.values()])
        rest_of = tuple(0 if a not in chosen else slice(None) for a in sizes)
        return list(ids[rest_of].reshape(-1))
    return list(range(devices))


FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while",
        "conditional", "call", "after-all", "partition-id", "replica-id", "iota")  # fmt: skip


def memory_traffic(text: str) -> float:
    """Bytes that a step reads from and writes to the main memory of a device.

    text: optimized HLO. Every instruction outside fusions reads its operands and writes
    its result, as often as its loop runs. If a fusion takes slices of an array, only the
    slices count.
    """
    found, entry = parse(text)
    times = times_run(found, entry)
    inside = set(callers_of(found))
    total = 0.0
    for name, items in found.items():
        if name in inside or not times[name]:
            continue
        shapes = {item.name: item.shape for item in items}
        for item in items:
            if item.op in FREE or item.op.endswith("-done"):
                continue
            total += times[name] * traffic_of(item, shapes, found)
    return total


def traffic_of(item, shapes, found) -> float:
    """Bytes that one instruction reads and writes."""
    sizes = [bytes_of(shapes.get(o, ""), off_chip=True) for o in item.operands]
    out = bytes_of(item.shape, off_chip=True)
    if item.op == "dynamic-slice":
        return 2 * out
    if item.op == "dynamic-update-slice":
        return 2 * sizes[1]
    if item.op in ("copy-start", "slice-start"):
        return max(sizes, default=0.0)
    if item.op == "fusion":
        inner = fused_by(item, found)
        sizes = [read_of(found, inner, i, size) for i, size in enumerate(sizes)]
        local = {x.name: x.shape for x in inner}
        for x in inner:  # updates a part of its operand in place
            if x.op == "dynamic-update-slice":
                out -= bytes_of(x.shape) - bytes_of(local.get(x.operands[1], ""))
    return sum(sizes) + max(out, 0.0)


VIEWS = ("bitcast", "reshape", "get-tuple-element")


def fused_by(item, found):
    """The instructions of a fusion's computation."""
    return found.get(next(iter(called_by(item)), ""), [])


def read_of(found, items, number: int, whole: float) -> float:
    """Bytes that a fusion with these instructions reads of its parameter `number`.

    whole: bytes of that parameter.
    """
    names = {
        x.name for x in items if x.op == "parameter" and x.arguments == str(number)
    }
    total = 0.0
    for x in items:
        if not x.operands or not names & set(x.operands):
            continue
        if x.op in VIEWS:
            names.add(x.name)
        elif x.op in ("dynamic-slice", "gather"):
            total += bytes_of(x.shape)
        elif x.op == "fusion":
            own = [i for i, operand in enumerate(x.operands) if operand in names]
            total += sum(read_of(found, fused_by(x, found), i, whole) for i in own)
        elif x.op != "dynamic-update-slice" or x.operands[0] not in names:
            return whole
    return min(total, whole)
