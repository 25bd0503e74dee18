"""Progress of long loops in evaluations: lines with the time left, and the check for stops."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from core.base.text import duration
from core.base.waiting import Stopped
from core.method import Watch

SAY_EVERY = 10.0  # seconds between lines of progress


def watched(
    items: Iterable[Any], what: str, watch: Watch, *, total: int | None = None
) -> Iterator[Any]:
    """Yield `items`; says now and then how many of `total` are done. Raises Stopped.

    what: of the line "what 120/3000, 0:41 left". total: the number of items, if they have
    no length.
    """
    count = len(items) if total is None and isinstance(items, Sized) else total
    assert count is not None, what
    tick = progress_line(what, count, watch)
    for i, item in enumerate(items):
        tick(i)
        yield item


def progress_line(what: str, total: int, watch: Watch) -> Callable[[int], None]:
    """progress(done): a line with the time left, at most every SAY_EVERY seconds.

    progress raises Stopped if a stop is requested.
    """
    begun = last = time.monotonic()
    first: int | None = None

    def progress(done: int) -> None:
        nonlocal last, first
        if watch.stopping():
            raise Stopped
        now = time.monotonic()
        first = done if first is None else first
        if now - last < SAY_EVERY:
            return
        last = now
        rate = (done - first) / (now - begun)
        left = f", {duration((total - done) / rate)} left" if rate > 0 else ""
        watch.say(f"{what} {done}/{total}{left}")

    return progress
