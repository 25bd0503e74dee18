"""Ends a process that hangs: no step for some time, the stacks of all threads are written."""

import contextlib
import faulthandler
import os
import pathlib
import sys
import threading
import time

import jax

from core.base.text import duration
from core.runs.mirror import address_of

HUNG = (
    76  # exit code, as of a process whose job lost another one (core/parallel/peers.py)
)
LAST_RESORT_S = 60.0  # after which a thread without Python's lock ends the process


class Watchdog:
    """A thread that ends the process `seconds` after the last `step`; 0 switches it off.

    A context manager. Time inside `paused` does not count, such as that of compilation and
    of evaluations, which take as long as they take.
    """

    def __init__(self, folder, seconds: float):
        rank = jax.process_index()
        self.path = pathlib.Path(folder) / (
            f"stacks.{rank}.txt" if rank else "stacks.txt"
        )
        self.seconds = seconds
        self._since, self._paused = time.monotonic(), 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def step(self) -> None:
        """A step is done: begin to count anew."""
        self._since = time.monotonic()

    @contextlib.contextmanager
    def paused(self):
        """Time inside does not count."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1
            self.step()

    def __enter__(self):
        if self.seconds:
            self._thread.start()
        return self

    def __exit__(self, *_):
        self._closed.set()
        if self.seconds:
            self._thread.join()

    def _watch(self):
        while not self._closed.wait(min(1.0, self.seconds / 10)):
            if not self._paused and time.monotonic() - self._since > self.seconds:
                self._end()

    def _end(self):
        """Write the stacks of all threads, and end the process."""
        faulthandler.dump_traceback_later(LAST_RESORT_S, exit=True)
        try:
            if address_of(self.path.parent):
                raise OSError  # a mirror, which is not sent any more
            with open(self.path, "w") as file:
                faulthandler.dump_traceback(file)
            where = f"the stacks of all threads are in {self.path}"
        except OSError:  # the folder may be what hangs
            faulthandler.dump_traceback(sys.__stderr__)
            where = "the stacks of all threads are above"
        print(
            f"error: no step was done for {duration(self.seconds)} (guard.hang_s): {where}; "
            "started again, the run resumes from its last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(HUNG)
