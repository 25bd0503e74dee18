"""Restarts a command on CPU with glibc settings that keep freed memory in the process.

XLA frees its temporaries after every step and glibc returns them to the kernel, which then
clears them page by page: a third of the time of a small step. These settings keep all
memory, in huge pages. Returning large blocks alone bounds memory more tightly, but doubled
the step of a wider model in a virtual machine that returns free pages to its host. glibc
reads them at the start of a process only, so the command restarts itself.
"""

import glob
import os
import platform
import sys

SETTINGS = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}
ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*", "/dev/kfd")


def restart_to_keep_memory() -> None:
    """Restart this command with SETTINGS if `should_restart`; else return."""
    if should_restart(os.environ):
        sys.stdout.flush()
        environment = {**os.environ, **SETTINGS}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def should_restart(environment) -> bool:
    """Whether the process computes on CPU with glibc and none of SETTINGS is set."""
    if platform.libc_ver()[0] != "glibc" or SETTINGS.keys() & environment.keys():
        return False
    platforms = environment.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(glob.glob(pattern) for pattern in ACCELERATORS)
