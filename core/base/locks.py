"""Locks on files, which end with the process that holds them."""

import contextlib
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Iterator


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
