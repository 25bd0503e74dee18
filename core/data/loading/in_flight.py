"""The records that are being loaded now, in all worker processes: what a source waits for."""

import contextlib
import os
import struct
import time
from multiprocessing import shared_memory

ENTRY = struct.Struct("<qd")  # record + 1, or 0; time (s) at which its loading began
SLOTS = 1024  # many more than threads that load at the same time
PROCESS = struct.Struct("<q")  # the process id of a worker, or 0


class InFlight:
    """A table that loaders write and the parent reads; picklable if there are workers.

    A sample has the slot of its position, so that nothing is shared between loaders.
    """

    def __init__(self, workers: int = 0):
        size = SLOTS * ENTRY.size + workers * PROCESS.size
        self.workers = workers
        self.shared = None
        if workers:
            self.shared = shared_memory.SharedMemory(create=True, size=size)
        self.table = self.shared.buf if self.shared else memoryview(bytearray(size))

    def __reduce__(self):
        return attach, (self.shared.name, self.workers)

    @contextlib.contextmanager
    def loading(self, position: int, record: int):
        """While inside, `record` is being loaded for the sample at `position`."""
        place = position % SLOTS * ENTRY.size
        ENTRY.pack_into(self.table, place, record + 1, time.time())
        try:
            yield
        finally:
            ENTRY.pack_into(self.table, place, 0, time.time())

    def records(self) -> list[tuple[int, float]]:
        """(record, seconds since its loading began), the longest first."""
        now = time.time()
        found = ENTRY.iter_unpack(self.content()[: SLOTS * ENTRY.size])
        times = [(record - 1, now - begin) for record, begin in found if record]
        return sorted(times, key=lambda item: -item[1])

    def content(self) -> bytes:
        """All of the table; it changes whenever a loading begins or ends."""
        return bytes(self.table)

    def register(self, worker: int) -> None:
        """Called in a worker: note its process id."""
        place = SLOTS * ENTRY.size + worker * PROCESS.size
        PROCESS.pack_into(self.table, place, os.getpid())

    def processes(self) -> set[int]:
        """The process ids of the workers that have begun."""
        end = SLOTS * ENTRY.size + self.workers * PROCESS.size
        found = PROCESS.iter_unpack(self.content()[SLOTS * ENTRY.size : end])
        return {number for (number,) in found if number}

    def close(self) -> None:
        """Called in the parent: the table is gone for new workers."""
        if self.shared:
            self.shared.unlink()


def attach(name: str, workers: int) -> InFlight:
    """The table of the parent, in a worker."""
    table = InFlight.__new__(InFlight)
    table.workers, table.shared = workers, shared_memory.SharedMemory(name)
    table.table = table.shared.buf
    return table
