"""Preemption: stop requests by signal, agreed on by all processes of a job."""

import contextlib
import os
import signal
import time

import jax
from jax.experimental import multihost_utils

from core.base.processes import STOP_SIGNALS
from core.base.waiting import Stopped

NOTICE = b"\nstopping: the run is saved first; Ctrl-C again ends it at once\n"
GRACE_S = 4.0  # that a batch or an evaluation gets to be completed
AGAIN_S = 1.0  # between interruptions, in case one was caught


class Preempted(Exception):
    """The run was stopped after saving a checkpoint; started again, it resumes."""


class Interrupted(BaseException):
    """Ends what may be broken off; no `except Exception` catches it."""


class StopRequest:
    """Callable that says whether the run has to stop; once True it stays True.

    All processes must call this equally often; the count is the sync point.
    """

    def __init__(self, terminal: int):
        self.terminal = terminal  # file descriptor of the notice
        self.calls, self.requested = 0, False
        self.since = float(
            "inf"
        )  # when the first signal came, if this process is alone
        self.grace = float("inf")  # seconds from then on after which to interrupt

    def __call__(self) -> bool:
        if jax.process_count() > 1 and not self.requested:
            self.calls += 1
            self.requested = multihost_utils.reached_preemption_sync_point(self.calls)
        return self.requested

    def check(self) -> None:
        """Raise Stopped if the run has to stop; all processes call it equally often too."""
        if self():
            raise Stopped

    def overdue(self) -> bool:
        """Whether a stop was requested GRACE_S ago; False if there are other processes.

        Those would wait for this one at the next collective, so it goes on as well.
        """
        return time.monotonic() - self.since >= GRACE_S

    def handle(self, number, frame):
        """Signal handler; after the first Ctrl-C the next one ends the process."""
        if number == signal.SIGINT and not self.grace:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            os.write(self.terminal, NOTICE)  # print is not safe in a signal handler
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self.requested:
            self.requested, self.since = True, time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, GRACE_S, AGAIN_S)
            self.interrupt()

    def interrupt(self, *_):
        """Handler of the timer: raise Interrupted where that is allowed."""
        if time.monotonic() - self.since >= self.grace:
            raise Interrupted

    def breakable(self, evaluate):
        """`evaluate`, which raises Interrupted if a requested stop has to wait for it."""

        def run(state):
            with self.interruptible(GRACE_S):
                return evaluate(state)

        return run

    @contextlib.contextmanager
    def interruptible(self, grace: float):
        """Raises Interrupted inside, `grace` seconds after a stop was requested.

        Python sees a signal between two instructions: one that arrives while a program is
        compiled is handled when the compiler returns. With several processes nothing is
        interrupted.
        """
        before, self.grace = self.grace, grace
        try:
            self.interrupt()
            yield
        finally:
            self.grace = before


@contextlib.contextmanager
def stop_on_signals():
    """Yields a StopRequest that STOP_SIGNALS set; restores the handlers.

    A SIGHUP that is ignored, as under nohup, stays ignored. With several processes
    SIGTERM stays with the handler of jax.distributed, which informs the others; the other
    signals are forwarded to it.
    """
    alone = jax.process_count() == 1
    numbers = set(STOP_SIGNALS) - ({signal.SIGTERM} if not alone else set())
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    stop = StopRequest(os.dup(2))
    handlers = {number: stop.handle for number in numbers}
    handlers |= {signal.SIGALRM: stop.interrupt} if alone else {}
    before = {number: signal.signal(number, f) for number, f in handlers.items()}
    try:
        yield stop
    finally:
        if alone:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(stop.terminal)


@contextlib.contextmanager
def nothing_to_save(stop: StopRequest, folder):
    """A stop that is requested inside raises Preempted at once."""
    try:
        with stop.interruptible(0.0):
            yield
    except Interrupted:
        raise Preempted(
            f"stopped before the first step, with nothing new to save in {folder}"
        ) from None
