"""Child processes: signals they ignore, their end with the parent, CPUs, open files."""

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
from multiprocessing import resource_tracker

# What schedulers, terminals and timers send to ask for an end.
STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


@contextlib.contextmanager
def ignore_parent_signals():
    """Processes and threads started inside never receive STOP_SIGNALS.

    A terminal or scheduler sends these to the whole job; only the parent handles them.
    The calling thread receives those that arrive meanwhile when the context ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        start_resource_tracker()  # which unblocks two of them again
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_resource_tracker() -> None:
    """Start the process that removes what killed workers leave in /dev/shm, if need be.

    It does so without the warning that it would print at the end of the run.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ.pop("PYTHONWARNINGS")
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def end_with_parent(*_):
    """Call in a child process: it exits when its parent ends, even if that was killed."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def usable_cpus() -> int:
    """Number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def allow_open_files() -> None:
    """Raise the limit of open files (`ulimit -n`) as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS has another limit yet
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def files_left() -> float:
    """How many more files this process may open; infinity if unlimited or unknown."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or not os.path.isdir("/proc/self/fd"):
        return float("inf")
    return limit - len(os.listdir("/proc/self/fd"))


def seconds_alive() -> float:
    """Seconds since this process was started, as far as the system says so; else 0."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime") as file:
            up = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, up - ticks / os.sysconf("SC_CLK_TCK"))
