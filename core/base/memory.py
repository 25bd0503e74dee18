"""Memory that a process may use, and large arrays that take it only where written."""

import math
import mmap
import pathlib
import sys

import numpy as np
import psutil

CGROUPS = pathlib.Path("/sys/fs/cgroup")
OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")
# Linux: no memory is promised to a mapping. Python 3.13 has it as mmap.MAP_NORESERVE.
NO_RESERVE = 0x4000


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
