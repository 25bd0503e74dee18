"""How a run learns that it must stop, at one place for all processes of a job."""

import contextlib
import os
import signal

import jax
from jax.experimental import multihost_utils

NOTED = b"\nstopping: the run is saved first; Ctrl-C again ends it at once\n"


class Preempted(Exception):
    """The run was asked to stop, has saved, and goes on when started again."""


class Stop:
    """Called between pieces of work: whether to stop. Once true it stays true.

    The processes of a job have to call it equally often: they agree by that number.
    """

    def __init__(self):
        self.asked, self.answer = 0, False

    def __call__(self) -> bool:
        if jax.process_count() > 1 and not self.answer:
            self.asked += 1
            self.answer = multihost_utils.reached_preemption_sync_point(self.asked)
        return self.answer

    def note(self, number, frame):
        """Take a signal; the next Ctrl-C meets the system's own handler."""
        if number == signal.SIGINT:
            os.write(2, NOTED)  # print is not safe inside a handler
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if jax.process_count() == 1:
            self.answer = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def listening():
    """Yields a Stop that SIGTERM and Ctrl-C set.

    Among several processes SIGTERM stays with the handler of jax.distributed, which
    tells the others; Ctrl-C is passed on to it.
    """
    stop = Stop()
    numbers = [signal.SIGINT] + [signal.SIGTERM] * (jax.process_count() == 1)
    before = {number: signal.signal(number, stop.note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
