"""Before the first step: what is going on, for how long, and what the compiler writes."""

import contextlib
import os
import re
import sys
import time

import jax

from core.base.text import duration
from core.base.waiting import repeating
from core.runs.writer import writing

TICK_S = 15.0  # between two lines about the same work
# Logged by C++: a date or a letter with digits begins each message.
MESSAGE = re.compile(r"^(?=\d{4}-\d\d-\d\d \S+ [IWEF] |[IWEF]\d{4} \S+)", re.MULTILINE)
ALARMS = ("slow_operation_alarm", "file a bug")


def say(text: str, *, everywhere: bool = False) -> None:
    """Print a line in process 0, or in all. A terminal that is gone does not end a run."""
    if everywhere or jax.process_index() == 0:
        with contextlib.suppress(OSError):
            print(text, flush=True)


@contextlib.contextmanager
def working(what: str, *, usual_s: float | None = None, at_once: bool = True):
    """Say what is being done, and every TICK_S seconds for how long already.

    usual_s: seconds that it took before, if that is known. at_once: False says nothing
    before TICK_S, as mistakes of the user are found meanwhile and reported alone.
    """
    usual = "" if usual_s is None else f" (took {duration(usual_s)} before)"
    begin = time.monotonic()

    def tick():
        say(f"{what}: {duration(time.monotonic() - begin)}{usual}")

    if at_once:
        say(what + usual)
    with repeating(TICK_S, tick):
        yield


@contextlib.contextmanager
def log_compiler(folder):
    """Write stderr to compiler.log in `folder` while inside, and show it afterwards.

    Not shown are alarms of slow compilation, in which XLA asks for bug reports. What is
    written stays in the file, also if the process ends inside.
    """
    rank = jax.process_index()
    path = folder / (f"compiler.{rank}.log" if rank else "compiler.log")
    with writing(path), open(path, "ab") as file:
        begin = file.tell()
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        text = path.read_bytes()[begin:].decode(errors="replace")
        with contextlib.suppress(OSError):
            sys.stderr.write(without_alarms(text))
        if not path.stat().st_size:
            path.unlink()


def without_alarms(text: str) -> str:
    """What a compiler wrote, without messages about slow compilation."""
    messages = MESSAGE.split(text)
    return "".join(m for m in messages if not any(word in m for word in ALARMS))
