"""Throughput, progress line and peak memory of a run."""

import math
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import NamedTuple

import jax

from core.base.text import duration, short


class Rates(NamedTuple):
    """Speed of the train loop since the last report; NaN before the first step."""

    step_seconds: float
    examples_per_second: float
    wait_share: float  # of the time, spent waiting for data
    eta_seconds: float  # of training still to do, without pauses


class Throughput:
    """A clock for the train loop that separates waiting for data from working.

    Time inside `pause`, waits included, is not counted; all time outside `wait` and
    `pause` is work. Pause the first step: it compiles.
    """

    def __init__(self, *, now=time.perf_counter):
        self._now = now
        self._mark = now()
        self._kind = "work"
        self._clear()

    def wait(self):
        """`with clock.wait(): batch = next(...)`."""
        return self._as("wait")

    def pause(self):
        """`with clock.pause(): evaluate()`; also for checkpoints and compilation."""
        return self._as("pause")

    def count(self, examples: int) -> None:
        """Count one more step with this many examples."""
        self._steps += 1
        self._examples += examples

    def report(self, steps_left: int) -> Rates:
        """Rates since the last report; the next report begins here."""
        self._settle()
        seconds = self._spent["work"] + self._spent["wait"]
        steps, examples, wait = self._steps, self._examples, self._spent["wait"]
        self._clear()
        if not steps or not seconds > 0:
            return Rates(math.nan, math.nan, math.nan, math.nan)
        each = seconds / steps
        return Rates(each, examples / seconds, wait / seconds, each * steps_left)

    def _clear(self):
        self._spent = {"work": 0.0, "wait": 0.0, "pause": 0.0}
        self._steps = self._examples = 0

    def _settle(self):
        now = self._now()
        self._spent[self._kind] += now - self._mark
        self._mark = now

    @contextmanager
    def _as(self, kind):
        outer = self._kind
        self._settle()
        self._kind = "pause" if outer == "pause" else kind
        try:
            yield
        finally:
            self._settle()
            self._kind = outer


def dues_left(every: int, step: int, last: int) -> int:
    """How often something is due at the steps from `step` to `last`.

    every: steps between, as in core/train.py:due; 0 only after the last, -1 never.
    """
    if every < 0 or step > last:
        return 0
    if not every:
        return 1
    return last // every - (step - 1) // every + (last % every > 0)


def fitting(every: Mapping[str, int], last: int) -> dict[str, int]:
    """Steps between evaluations of a run of `last` steps; -1, never, for those it leaves out.

    A run ends with an evaluation only if it is as long as the steps between two of them,
    or, if they are 0, as the longest of the section: a short run does not pay for a long
    one.
    """
    longest = max(every.values(), default=0)
    return {name: n if (n or longest) <= last else -1 for name, n in every.items()}


class Interruptions:
    """How long evaluations and checkpoints take that are still due.

    every: name -> steps between, as in core/train.py:due. last: step of the run.
    seconds: name -> duration of the newest; a first one, which compiles, counts until the
    second.
    """

    def __init__(self, every: dict[str, int], last: int, seconds: dict[str, float]):
        self.every, self.last, self.seconds = every, last, dict(seconds)

    def left(self, step: int) -> float:
        """Seconds of those that are due from `step` on, as far as durations are known."""
        return sum(
            self.seconds.get(name, 0.0) * dues_left(every, step, self.last)
            for name, every in self.every.items()
        )

    def unknown(self, step: int) -> bool:
        """Whether something is due from `step` on that has not been timed."""
        return any(
            dues_left(every, step, self.last)
            for name, every in self.every.items()
            if name not in self.seconds
        )

    @contextmanager
    def timed(self, name: str):
        """Take the time of what is done inside."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


def progress_line(
    step: int,
    steps: int,
    shown: dict[str, float],
    rates: Rates,
    *,
    unit: str = "examples",
    more: bool = False,
    said: str = "",
) -> str:
    """`step 120/1500  loss 0.412  58.1 clips/s  wait 1.2%  ETA 9:41`.

    Counts, which are of type int, are shown in full. more: the end is later than said, as
    something is due that has not been timed. said: what else the source says.
    """
    parts = [f"step {step}/{steps}"]
    parts += [
        f"{name} {x if isinstance(x, int) else short(x)}" for name, x in shown.items()
    ]
    parts += [said] if said else []
    if math.isfinite(rates.step_seconds):
        parts.append(f"{short(rates.examples_per_second)} {unit}/s")
        parts.append(f"wait {100 * rates.wait_share:.1f}%")
    parts.append(f"ETA {duration(rates.eta_seconds)}{'+' if more else ''}")
    return "  ".join(parts)


def grid(numbers: dict[str, float]) -> list[str]:
    """A table, as lines of text, of the numbers whose names are "row/column"."""
    named = {tuple(name.split("/")): value for name, value in numbers.items()}
    named = {name: value for name, value in named.items() if len(name) == 2}
    rows, columns = (list(dict.fromkeys(name[i] for name in named)) for i in (0, 1))
    if not rows:
        return []
    table = [["", *columns]]
    for row in rows:
        found = (named.get((row, column)) for column in columns)
        table.append([row, *("" if x is None else short(x) for x in found)])
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in table
    ]


def peak_host_bytes() -> int:
    """Peak resident memory of this process on the host, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def device_memory() -> dict[str, int]:
    """Memory in bytes of the fullest local device; empty if not reported (CPU)."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    names = {
        "device_bytes": "bytes_in_use",
        "device_peak_bytes": "peak_bytes_in_use",
        "device_limit_bytes": "bytes_limit",
    }
    return {
        ours: max(s[theirs] for s in stats)
        for ours, theirs in names.items()
        if all(theirs in s for s in stats)
    }
