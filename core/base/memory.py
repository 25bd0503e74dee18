"""Memory limits, free memory, and arrays that are allocated as they are written."""

import math
import mmap
import os
import pathlib
import sys

import numpy as np
import psutil

SHARED = pathlib.Path("/dev/shm")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")
LIMITS = {  # of a control group, version 2 and 1 -> what is used of it
    "memory.max": "memory.current",
    "memory.limit_in_bytes": "memory.usage_in_bytes",
}
STATISTICS = "memory.stat"  # beside the limit: how much of the use are cached files
# Linux: no memory is promised to a mapping. Python 3.13 has it as mmap.MAP_NORESERVE.
NO_RESERVE = 0x4000


def memory_limit(cgroups=CGROUPS, own=OWN_CGROUPS) -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit.

    cgroups: where control groups are mounted. own: the file that names this process's.
    """
    limits = [_number(path) for path in limit_files(cgroups, own)]
    return int(min([psutil.virtual_memory().total, *limits]))


def free_memory(root: str = "/") -> float:
    """Bytes that may still be used, by the machine and by the container's limit.

    root: of the file system that is asked. Infinity where neither can be read.
    """
    top = pathlib.Path(root)
    found = [_field(top / "proc/meminfo", "MemAvailable:") * 1024]
    cgroups, own = (top / str(path).lstrip("/") for path in (CGROUPS, OWN_CGROUPS))
    for limit in limit_files(cgroups, own):
        used = _number(limit.with_name(LIMITS[limit.name]), missing=0.0)
        cached = _field(limit.with_name(STATISTICS), "inactive_file", missing=0.0)
        found.append(_number(limit) - (used - cached))
    return max(0.0, min(found))


def limit_files(cgroups: pathlib.Path, own: pathlib.Path) -> list[pathlib.Path]:
    """Files that may limit this process: of its control groups and of those around them."""
    # Version 2 has one tree; version 1 has one for each controller.
    roots = {"": cgroups, "memory": cgroups / "memory"}
    folders = list(roots.values())
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        root = roots["memory" if "memory" in controllers.split(",") else ""]
        inner = root / path.strip("/")
        folders += [x for x in (inner, *inner.parents) if root in x.parents]
    return [folder / name for folder in folders for name in LIMITS]


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
