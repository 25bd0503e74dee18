"""Reads batches ahead in a thread: waits that end, a name for what is waited for."""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator

from absl import logging

from core.base.processes import ignore_parent_signals
from core.base.text import duration
from core.base.waiting import SourceFailed, Stopped
from core.data.loading.in_flight import InFlight
from core.data.records import Records

POLL_S = 0.25  # between looks at `stopping` and the clock
WARN_SHARE = 0.1  # of `stall_s`, after which the wait is reported
CLOSE_S = 5.0  # for workers to end by themselves
NAMED = 3  # records that a message names


class Reading:
    """Batches of one iterator, the next of which is read meanwhile.

    start: InFlight -> iterator with `close`; called in a thread, whose processes never
      receive the signals that ask a run to stop.
    stall_s: seconds without any sample after which `next` raises SourceFailed; a warning
      comes after a tenth of that.
    """

    def __init__(
        self, start: Callable, records: Records, *, workers: int, stall_s: float
    ):
        self.records, self.stall_s = records, stall_s
        self.batches: queue.Queue = queue.Queue(1)
        self.ending = threading.Event()
        with ignore_parent_signals():
            self.table = InFlight(workers)
            self.thread = threading.Thread(
                target=_read, args=(start, self.table, self.batches, self.ending)
            )
            self.thread.daemon = True
            self.thread.start()

    def next(self, stopping: Callable[[], bool]):
        """The next batch.

        Errors of the iterator pass through. Raises Stopped if `stopping()` before a batch is
        ready, and SourceFailed, naming the record, after `stall_s` seconds without progress.
        """
        before, since, warned = None, time.monotonic(), False
        while True:
            try:
                batch, error = self.batches.get(timeout=POLL_S)
            except queue.Empty:
                pass
            else:
                if error is not None:
                    raise error
                return batch
            if stopping():
                raise Stopped
            now, content = time.monotonic(), self.table.content()
            if content != before:
                before, since, warned = content, now, False
            if now - since >= self.stall_s:
                raise SourceFailed(
                    f"no sample was read for {self.stall_s:g} s (data.stall_s), "
                    f"{self.waits_for()}; see whether it can be read (a mount that is gone, "
                    "a file that never ends), repair or remove it, or raise data.stall_s"
                )
            if now - since >= WARN_SHARE * self.stall_s and not warned:
                warned = True
                logging.warning(
                    "No sample was read for %.0f s, %s", now - since, self.waits_for()
                )

    def waits_for(self) -> str:
        """The records that are being loaded, and for how long."""
        found = self.table.records()
        if not found:
            return f"and no record of {self.records} is being loaded"
        names = [
            f"{self.records.name(record)} (for {duration(seconds)})"
            for record, seconds in found[:NAMED]
        ]
        more = f" and {len(found) - NAMED} more" if found[NAMED:] else ""
        return f"waiting for {', '.join(names)}{more}"

    def close(self) -> None:
        """End thread and workers; workers that hang are killed."""
        self.ending.set()
        while self.thread.is_alive() and not self.batches.empty():
            self.batches.get_nowait()  # the thread may wait for a place
        self.thread.join(CLOSE_S)
        if self.thread.is_alive():
            kill(self.table.processes())
            self.thread.join(CLOSE_S)
        self.table.close()


def _read(start, table, batches, ending):
    """Put (batch, None) or, at the end, (None, error); then close the iterator."""
    iterator: Iterator | None = None
    try:
        iterator = start(table)
        while not ending.is_set():
            _put(batches, (next(iterator), None), ending)
    except Exception as error:  # noqa: BLE001, raised again by `next`
        _put(batches, (None, error), ending)
    if iterator is not None:
        iterator.close()


def _put(batches, item, ending):
    while not ending.is_set():
        try:
            return batches.put(item, timeout=POLL_S)
        except queue.Full:
            continue


def kill(numbers: set[int]) -> None:
    """SIGKILL to those child processes of this process."""
    for process in multiprocessing.active_children():
        if process.pid in numbers:
            os.kill(process.pid, signal.SIGKILL)
