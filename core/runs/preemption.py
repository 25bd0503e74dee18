"""Preemption: stop requests by signal, agreed on by all processes of a job."""

import contextlib
import os
import signal

import jax
from jax.experimental import multihost_utils

NOTICE = b"\nstopping: the run is saved first; Ctrl-C again ends it at once\n"


class Preempted(Exception):
    """The run was stopped after saving a checkpoint; started again, it resumes."""


class StopRequest:
    """Callable that says whether the run has to stop; once True it stays True.

    All processes must call this equally often; the count is the sync point.
    """

    def __init__(self):
        self.calls, self.requested = 0, False

    def __call__(self) -> bool:
        if jax.process_count() > 1 and not self.requested:
            self.calls += 1
            self.requested = multihost_utils.reached_preemption_sync_point(self.calls)
        return self.requested

    def handle(self, number, frame):
        """Signal handler; after the first Ctrl-C the next one ends the process."""
        if number == signal.SIGINT:
            os.write(2, NOTICE)  # print is not safe in a signal handler
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if jax.process_count() == 1:
            self.requested = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signals():
    """Yields a StopRequest that SIGTERM and Ctrl-C set; restores the handlers.

    With several processes SIGTERM stays with the handler of jax.distributed, which
    informs the others; Ctrl-C is forwarded to it.
    """
    stop = StopRequest()
    numbers = [signal.SIGINT] + [signal.SIGTERM] * (jax.process_count() == 1)
    before = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
