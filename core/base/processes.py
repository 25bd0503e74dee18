"""Child processes: signals they ignore, their end with the parent, how many CPUs there are."""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker


@contextlib.contextmanager
def ignore_parent_signals():
    """Processes started inside ignore SIGINT and SIGTERM.

    A terminal or scheduler sends these to the whole job; only the parent handles them.
    The parent receives those that arrive meanwhile when the context ends.
    """
    resource_tracker.ensure_running()  # its first start would unblock the signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
