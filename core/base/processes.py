"""Processes beside a run: how many fit, deaf to signals meant for it, ending when it does."""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker


@contextlib.contextmanager
def deaf():
    """Processes that start inside never hear SIGINT and SIGTERM, which a terminal or a
    scheduler sends to all of a job; this one hears them, if later."""
    resource_tracker.ensure_running()  # its first start would unblock the signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*_):
    """In a child: end when its parent is killed, which alone would leave it for ever."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
