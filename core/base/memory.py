"""Memory: what a process may use, what is free, arrays that take it only where written."""

import math
import mmap
import os
import pathlib
import sys

import numpy as np
import psutil

SHARED = pathlib.Path("/dev/shm")
LIMITS = (  # version 2, then 1: (limit, use)
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
STATISTICS = (
    "memory.stat"  # beside the limit; says how much of the use are cached files
)
CGROUPS = pathlib.Path("/sys/fs/cgroup")
OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")
# Linux: no memory is promised to a mapping. Python 3.13 has it as mmap.MAP_NORESERVE.
NO_RESERVE = 0x4000


def free_memory(root: str = "/") -> float:
    """Bytes that may still be used, by the machine and by the container's limit.

    root: of the file system that is asked. Infinity where neither can be read.
    """
    root = pathlib.Path(root)
    found = [_field(root / "proc/meminfo", "MemAvailable:") * 1024]
    for limit, use in LIMITS:
        limit, use = (root / path.lstrip("/") for path in (limit, use))
        statistics = limit.with_name(STATISTICS)
        cached = _field(statistics, "inactive_file", missing=0.0)
        found.append(_number(limit) - (_number(use, missing=0.0) - cached))
    return max(0.0, min(found))


def free_shared_memory() -> float:
    """Free bytes of /dev/shm; infinity where there is none."""
    try:
        status = os.statvfs(SHARED)
    except OSError:
        return float("inf")
    return float(status.f_bavail * status.f_frsize)


def bytes_text(count: float) -> str:
    """Bytes as "0.36 MB", "12 MB" or "1.5 GB"."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def _number(path, missing=float("inf")) -> float:
    """The number in a file; `missing` if there is none, such as "max"."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return missing


def _field(path, name: str, missing=float("inf")) -> float:
    """The number after `name` at the beginning of a line."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        return next(float(line[1]) for line in lines if line[:1] == [name])
    except (OSError, ValueError, StopIteration, IndexError):
        return missing


def memory_limit(cgroups=CGROUPS, own=OWN_CGROUPS) -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit.

    cgroups: where control groups are mounted. own: the file that names this process's.
    """
    limits = [psutil.virtual_memory().total]
    lines = own.read_text().splitlines() if own.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 has one tree; version 1 has one for each controller.
        root = cgroups / "memory" if "memory" in controllers.split(",") else cgroups
        inner = root / path.strip("/")
        for folder in (inner, *inner.parents):
            if folder != root and root not in folder.parents:
                break
            for name in ("memory.max", "memory.limit_in_bytes"):
                text = read_text(folder / name)
                limits += [int(text)] if text.isdigit() else []
    return min(limits)


def read_text(path: pathlib.Path) -> str:
    """The text of a small file; empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def lazy_zeros(shape, dtype) -> np.ndarray:
    """Zeros of any size. Pages take memory once they are written to.

    np.zeros is refused where an array is larger than the memory of the machine.
    """
    size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
    if sys.platform != "linux":
        return np.zeros(shape, dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    buffer = mmap.mmap(-1, size, flags=flags)
    count = math.prod(shape)
    return np.frombuffer(buffer, dtype, count).reshape(shape)
