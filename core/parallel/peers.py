"""The other processes of a job: what they share without devices, and how their end is told."""

import contextlib
import ctypes
import os
import signal

import jax
from jax._src.distributed import (
    global_state,  # the coordinator's store has no other name
)

# What errors say when a collective or the coordinator loses a process.
LOST = ("Gloo", "NCCL", "UNAVAILABLE", "oordination", "eartbeat", "onnection")
GONE = (
    "another process of the job is gone, or cannot be reached: its output says why. Start "
    "the job again: it resumes from its last checkpoint"
)
MEET_S = 24 * 3600  # evaluations may take long; a process that dies ends the wait
EXIT = 76  # not saved, and no mistake of the user: start the job again
_handlers: list = []  # C calls them, so they must live


def store():
    """The coordinator's key-value store, shared by all processes; None for one process."""
    return global_state.client if jax.process_count() > 1 else None


def meet(name: str) -> None:
    """Wait, without devices, until all processes are here."""
    if (client := store()) is not None:
        client.wait_at_barrier(name, timeout_in_ms=1000 * MEET_S)


class Rounds:
    """Rounds in which every process says a text and hears those of all, without devices."""

    def __init__(self, name: str):
        self._name, self._count = name, 0

    def hear_all(self, text: str) -> list[str]:
        """The texts of all processes, by index; all must call this equally often."""
        if (client := store()) is None:
            return [text]
        self._count += 1
        client.key_value_set(self._key(self._count, jax.process_index()), text or " ")
        texts = [
            client.blocking_key_value_get(self._key(self._count, k), 1000 * MEET_S)
            for k in range(jax.process_count())
        ]
        if self._count > 1:  # all are in this round, so all have heard the one before
            client.key_value_delete(self._key(self._count - 1, jax.process_index()))
        return [text.strip() for text in texts]

    def _key(self, count: int, index: int) -> str:
        return f"reverie/{self._name}/{count}/{index}"


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of JAX says that another process of the job cannot be reached."""
    text = str(error)
    return isinstance(error, jax.errors.JaxRuntimeError) and any(
        word in text for word in LOST
    )


def end_with_a_sentence() -> None:
    """Say why when JAX aborts this process, as it does when another one of the job is gone.

    JAX aborts from a thread of its own, which runs no Python; ctypes lets it run this.
    """
    _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(_aborted))
    ctypes.CDLL(None).signal(signal.SIGABRT, _handlers[-1])


def _aborted(number):
    with contextlib.suppress(OSError):  # such as a disk that is full
        os.write(2, f"error: {GONE}\n".encode())
    os._exit(EXIT)
