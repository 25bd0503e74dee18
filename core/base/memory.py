"""Free memory: of the machine, of the container, of shared memory."""

import os
import pathlib

SHARED = pathlib.Path("/dev/shm")
CGROUPS = (  # version 2, then 1: (limit, use)
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
STATISTICS = (
    "memory.stat"  # beside the limit; says how much of the use are cached files
)


def free_memory(root: str = "/") -> float:
    """Bytes that may still be used, by the machine and by the container's limit.

    root: of the file system that is asked. Infinity where neither can be read.
    """
    root = pathlib.Path(root)
    found = [_field(root / "proc/meminfo", "MemAvailable:") * 1024]
    for limit, use in CGROUPS:
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
