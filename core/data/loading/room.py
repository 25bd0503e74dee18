"""Whether the batches that workers prepare ahead fit in memory and in /dev/shm."""

import dataclasses

import numpy as np

from core.base.memory import bytes_text, free_memory, free_shared_memory
from core.base.processes import files_left

IN_PARENT = 3  # batches: read ahead, in use, on its way to the device
LEAVING = 2  # batches whose shared memory is being given back
FILES = 64  # open ones per worker: pipes, and arrays of batches on their way


@dataclasses.dataclass(frozen=True)
class Room:
    """What is free before loading begins, and how many batches wait at most.

    rows: records of a batch. workers: processes. ahead: batches that wait per worker, or
    in this process if there are no workers. shared, memory: free bytes.
    """

    rows: int
    workers: int
    ahead: int
    shared: float
    memory: float

    def check(self, sample: dict[str, np.ndarray]) -> None:
        """Raise ValueError if full buffers of such samples do not fit."""
        batch = self.rows * sum(np.asarray(x).nbytes for x in sample.values())
        each, whole = self.ahead * batch, IN_PARENT * batch
        count = max(self.workers, 1)
        shared = count * each + LEAVING * batch
        if self.workers and shared > self.shared:
            fits = max(0, int((self.shared - LEAVING * batch) // each))
            more = f"docker run --shm-size={shared / 1e9 + 1:.0f}g"
            raise ValueError(
                f"batches on their way from data.workers={count} need up to "
                f"{bytes_text(shared)} of /dev/shm, of which "
                f"{bytes_text(self.shared)} are free; use --config.data.workers={fits}, "
                f"a smaller --config.batch, or a larger /dev/shm ({more})"
            )
        if count * each + whole > self.memory:
            fits = max(0, int((self.memory - whole) // each))
            fewer = f"--config.data.workers={fits} or " if fits < self.workers else ""
            raise ValueError(
                f"batches prepared ahead by data.workers={self.workers} need up to "
                f"{bytes_text(count * each + whole)} of memory, of which "
                f"{bytes_text(self.memory)} are free; use {fewer}a smaller --config.batch"
            )


def measure_room(*, rows: int, workers: int, buffer: int) -> Room:
    """The room for `workers` with `buffer` batches each; see Room.

    Raises ValueError if this process may not open the files that workers need.
    """
    left = files_left()
    if workers * FILES > left:
        raise ValueError(
            f"data.workers={workers} need {workers * FILES} more open files, but `ulimit "
            f"-n` leaves {max(0, int(left))}; use --config.data.workers="
            f"{max(0, int(left // FILES))} or raise the limit"
        )
    # A worker has `buffer` batches in its queue, the parent as many of each worker, and
    # both hold one more that waits for a place.
    ahead = 2 * buffer + 2 if workers else buffer
    return Room(rows, workers, ahead, free_shared_memory(), free_memory())
