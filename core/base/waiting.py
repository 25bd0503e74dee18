"""How a wait for data ends other than by data; what goes on in a thread meanwhile."""

import contextlib
import threading
from collections.abc import Callable


class Stopped(Exception):
    """A stop was requested while a source waited; its cursor is as before the wait."""


class SourceFailed(ValueError):
    """A source gives no more batches; the message is one sentence for the user.

    Its cursor is as after the last batch, so that a run can be saved and go on later.
    """


def never() -> bool:
    """For `stopping` of sources where nobody requests a stop: False."""
    return False


@contextlib.contextmanager
def repeating(seconds: float, act: Callable[[], None]):
    """Call `act` every `seconds` in a thread, first after that time, until the end."""
    done = threading.Event()

    def repeat():
        while not done.wait(seconds):
            act()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
