"""Preemption: stop requests by signal, agreed on by all processes of a job."""

import contextlib
import os
import signal
import time

import jax

from core.base.processes import STOP_SIGNALS
from core.base.waiting import Stopped
from core.parallel import peers
from core.parallel.stop_agreement import StopAgreement
from core.runs.maintenance import stop_at_notices

NOTICE = b"\nstopping: the run is saved first; Ctrl-C again ends it at once\n"
GRACE_S = 4.0  # that a batch or an evaluation gets to be completed
AGAIN_S = 1.0  # between interruptions, in case one was caught


class Preempted(Exception):
    """The run was stopped after saving a checkpoint; started again, it resumes."""


class Interrupted(BaseException):
    """Ends what may be broken off; no `except Exception` catches it."""


class StopRequest:
    """Callable that says whether the run has to stop; once True it stays True.

    All processes must call this equally often, at the same places.
    """

    def __init__(self, terminal: int):
        self.terminal = terminal  # file descriptor of the notice
        self.agreement: StopAgreement | None = None  # of several processes
        self.requested = False  # by a signal to this process, or by agreement
        self.since = float("inf")  # when this process heard of the first signal
        self.grace = float("inf")  # seconds from then on after which to interrupt

    def __call__(self) -> bool:
        if self.agreement is not None and not self.requested:
            self.requested = self.agreement.reached()
        return self.requested

    def check(self) -> None:
        """Raise Stopped if the run has to stop; all processes call it equally often too."""
        if self():
            raise Stopped

    def overdue(self) -> bool:
        """Whether a stop was requested GRACE_S ago; False if there are other processes.

        Those would wait for this one at the next collective, so it goes on as well.
        """
        return self.agreement is None and self.late()

    def late(self) -> bool:
        """Whether a stop was requested GRACE_S ago, of this process or another one."""
        return time.monotonic() - self.since >= GRACE_S

    def handle(self, number, frame):
        """Signal handler; after the first Ctrl-C the next one ends the process."""
        if number == signal.SIGINT and not self.grace:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            os.write(self.terminal, NOTICE)  # print is not safe in a signal handler
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.agreement is not None:
            self.agreement.request()
        elif not self.requested:
            self.requested = True
            self.heard()

    def heard(self):
        """A stop was requested: begin to count GRACE_S; may be called from a thread."""
        self.since = time.monotonic()
        os.kill(os.getpid(), signal.SIGALRM)

    def interrupt(self, *_):
        """Handler of SIGALRM: raise Interrupted where that is allowed, now and later."""
        past = time.monotonic() - self.since
        if past < 0:
            return
        if past >= self.grace:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
            raise Interrupted
        signal.setitimer(signal.ITIMER_REAL, max(GRACE_S - past, AGAIN_S), AGAIN_S)

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
        compiled is handled when the compiler returns. Nothing inside may be a collective of
        several processes.
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

    A SIGHUP that is ignored, as under nohup, stays ignored. With several processes a signal
    to one stops all; jax.distributed's own handler of SIGTERM is replaced. A notice of host
    maintenance counts as SIGTERM.
    """
    numbers = set(STOP_SIGNALS)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    stop = StopRequest(os.dup(2))
    handlers = {number: stop.handle for number in numbers}
    handlers |= {signal.SIGALRM: stop.interrupt}
    before = {number: signal.signal(number, f) for number, f in handlers.items()}
    try:
        with contextlib.ExitStack() as stack:
            if (store := peers.store()) is not None:
                place = jax.process_index(), jax.process_count()
                agreement = StopAgreement(store, *place, stop.heard)
                stop.agreement = stack.enter_context(agreement)
            stack.enter_context(stop_at_notices())
            yield stop
    finally:
        stop.since = float("inf")  # a handler that is still to run arms no timer
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: set by C code
        os.close(stop.terminal)


@contextlib.contextmanager
def nothing_to_save(stop: StopRequest, folder):
    """A stop that is requested inside raises Preempted at once, in a job of one process."""
    alone = stop.agreement is None
    try:
        with stop.interruptible(0.0) if alone else contextlib.nullcontext():
            yield
    except Interrupted:
        raise Preempted(
            f"stopped before the first step, with nothing new to save in {folder}"
        ) from None
