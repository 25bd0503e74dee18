"""Locks on files, which end with the process that holds them."""

import contextlib
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from core.base.waiting import repeating

BEAT_S, STALE_S = 10.0, 60.0  # of holders on file systems without locks


@contextlib.contextmanager
def hold_lock(path: pathlib.Path, doing: str) -> Iterator[bool]:
    """Hold the lock of a file, which is created; yields whether the file system has locks.

    doing: what the holder does, for the error: "prepares sets/clips". The lock ends with
    the process, however that ends; the file stays unless the caller deletes it.

    Raises ValueError, naming the holder, if another process holds the lock.
    """
    file = None
    while file is None:
        file, has_locks = _open_locked(path, doing)
    with file:
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}")
        file.flush()
        yield has_locks


def try_lock(file, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Lock an open file until it is closed, without waiting.

    Returns False if another process holds the lock, None if the file system has no locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK, ENOTSUP, ENOSYS: such as some NFS and Lustre mounts
        return None
    return True


@contextlib.contextmanager
def hold_by_beats(path: pathlib.Path, doing: str) -> Iterator[None]:
    """Hold a file where there are no locks: a thread touches it every BEAT_S seconds.

    A holder that has not touched it for STALE_S is gone. Two that begin within a moment of
    each other may both hold it. Raises ValueError if another one holds it.
    """
    try:
        quiet = time.time() - path.stat().st_mtime
        if path.read_text() and quiet < STALE_S:
            raise ValueError(
                f"{path.read_text()} {doing}: it gave a sign {quiet:.0f} s ago; wait for it "
                f"or stop it. One that crashed is gone after {STALE_S:.0f} s"
            )
    except FileNotFoundError:
        pass
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}")

    def beat():
        with contextlib.suppress(OSError):
            path.touch()

    try:
        with repeating(BEAT_S, beat):
            yield
    finally:
        with contextlib.suppress(OSError):
            path.write_text("")


def wait_for_lock(file) -> None:
    """Lock an open file until it is closed; returns at once where there are no locks."""
    with contextlib.suppress(OSError):  # as in `try_lock`
        fcntl.flock(file, fcntl.LOCK_EX)


def _open_locked(path, doing):
    """(open file, whether it is locked); (None, False) if it was deleted meanwhile."""
    file = open(path, "a+")
    got = try_lock(file)
    if got is None:
        return file, False
    if not got:
        file.seek(0)
        holder = file.read() or "another process"
        file.close()
        raise ValueError(f"{holder} {doing}; wait for it or stop it")
    try:  # the holder before may have deleted the file between the two calls
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file, True
    except FileNotFoundError:
        pass
    file.close()
    return None, False
