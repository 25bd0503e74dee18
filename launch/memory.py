"""Keep freed memory in the process on CPU, where each step asks for it again.

XLA frees its temporaries after every step and glibc returns them to the kernel, which
must then clear them page by page: a third of a small step. These settings keep all, in
huge pages. Returning only what is large bounds memory more tightly, but in a virtual
machine that hands free pages to its host it doubled the step of a wider model. They count
only from the start of a process, so the command starts itself once more with them.
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


def keep() -> None:
    """Start this command anew with SETTINGS, unless it runs elsewhere or any is set."""
    if wanted(os.environ):
        sys.stdout.flush()
        environment = {**os.environ, **SETTINGS}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def wanted(environment) -> bool:
    """Whether a process of this environment computes on CPU with glibc left as it is."""
    if platform.libc_ver()[0] != "glibc" or SETTINGS.keys() & environment.keys():
        return False
    platforms = environment.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(glob.glob(pattern) for pattern in ACCELERATORS)
