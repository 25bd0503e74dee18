"""Agreement of all processes of a job on the point at which they stop.

Every process counts its calls of `reached`, which all make at the same places of the program.
A request by any process reaches the others through the coordinator's key-value store within
about POLL_S. Each then answers with the next count that it can still stop at; all stop at the
highest of these counts. No device takes part, so a program that runs is not delayed.
"""

import threading
from collections.abc import Callable

POLL_S = 0.5  # between looks for the request of another process
ANSWER_S = 60.0  # that a process waits for the answers of the others
REQUEST = "reverie/stop"


class StopAgreement:
    """Says in every process at the same call of `reached` that the job stops.

    store: has key_value_set, key_value_try_get and blocking_key_value_get, as the client of
    jax.distributed. rank, count: of this process; number of processes. heard: called once,
    from a thread, when the request of any process is known. A context manager, whose threads
    end with it.
    """

    def __init__(self, store, rank: int, count: int, heard: Callable[[], None]):
        self.store, self.rank, self.count, self.heard = store, rank, count, heard
        self.asked, self.closed = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._calls = 0
        self._answer: int | None = None  # the first count at which this one can stop
        self._point = 0  # at which all stop, valid once `_settled`
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def request(self) -> None:
        """Ask all processes to stop; safe in a signal handler."""
        self.asked.set()

    def reached(self) -> bool:
        """Whether all processes stop now; all must call this equally often."""
        with self._lock:
            self._calls += 1
            calls, answer = self._calls, self._answer
        if answer is None or calls < answer:
            return False
        self._settled.wait()  # the threads of the others answer at once
        return calls >= self._point

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.closed.set()
        self._thread.join()

    def _listen(self):
        while not self._requested():
            if self.closed.is_set():
                return
            self.asked.wait(POLL_S)
        self._agree()
        self.heard()

    def _requested(self) -> bool:
        """Whether a process asks to stop; passes on what this one was asked."""
        if self.asked.is_set():
            self.store.key_value_set(REQUEST, str(self.rank), allow_overwrite=True)
            return True
        try:
            self.store.key_value_try_get(REQUEST)
        except Exception:  # noqa: BLE001, not there, or no coordinator: JAX reports that
            return False
        return True

    def _agree(self):
        """Find the count at which all stop."""
        with self._lock:
            self._answer = self._calls + 1
        self._point = self._answer
        try:
            self.store.key_value_set(f"{REQUEST}/{self.rank}", str(self._answer))
            answers = (
                self.store.blocking_key_value_get(
                    f"{REQUEST}/{rank}", int(1000 * ANSWER_S)
                )
                for rank in range(self.count)
            )
            self._point = max(map(int, answers))
        finally:  # without an answer a process is gone, which ends the job
            self._settled.set()
