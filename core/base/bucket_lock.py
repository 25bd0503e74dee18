"""A lock in a bucket: an object that its holder writes again every few seconds."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator

from core.base import buckets, locks
from core.base.waiting import repeating

LOOK_S = 1.0  # between two looks at a lock whose holder may be gone


@contextlib.contextmanager
def hold_in_bucket(
    place,
    doing: str,
    *,
    lost: Callable[[str], None],
    say: Callable[[str], None] = print,
) -> Iterator[None]:
    """Hold the lock at an address; a thread gives a sign every BEAT_S seconds.

    A holder that gave no sign for STALE_S is gone. One that gave a sign before is waited
    for so long, to see whether it gives another: clocks of machines need not agree. The
    object is created only if there is none, where the store knows that condition.

    doing: what the holder does, for the error. lost: called, from a thread, with the new
    holder if another process took the lock, as after a long interruption of this one.

    Raises ValueError if another process holds it, BucketError if the bucket fails.
    """
    key = secrets.token_hex(8)
    about = {"key": key, "holder": f"process {os.getpid()} on {socket.gethostname()}"}
    await_end(place, doing, say)
    created = buckets.write(place, json.dumps(about | {"beat": 0}).encode(), new=True)
    if not created or look(place).get("key") != key:
        raise ValueError(
            f"{look(place).get('holder', 'another process')} {doing}: it began at the same "
            "moment; wait for it or stop it"
        )
    beats = 0

    def beat():
        nonlocal beats
        beats += 1
        with contextlib.suppress(buckets.BucketError):
            found = look(place)
            if found and found.get("key") != key:
                return lost(found["holder"])
            buckets.write(place, json.dumps(about | {"beat": beats}).encode())

    try:
        with repeating(locks.BEAT_S, beat):
            yield
    finally:
        with contextlib.suppress(buckets.BucketError):
            if look(place).get("key") == key:
                buckets.remove(place)


def await_end(place, doing: str, say: Callable[[str], None]) -> None:
    """Return when nobody holds the lock; raises ValueError if its holder gives a sign."""
    if not (before := look(place)):
        return
    quiet = sign_age(place)
    begin = time.monotonic() - quiet
    if quiet < locks.STALE_S:
        say(
            f"{before['holder']} {doing}; waiting up to {locks.STALE_S - quiet:.0f} s for "
            "a sign of it"
        )
    while time.monotonic() - begin < locks.STALE_S:
        time.sleep(min(LOOK_S, locks.BEAT_S / 2))
        now = look(place)
        if now and now != before:
            raise ValueError(
                f"{now['holder']} {doing}: it gave a sign just now; wait for it or stop it"
            )
        if not now:
            return
    buckets.remove(place)


def is_held(place) -> bool:
    """Whether a holder gave a sign within STALE_S, by the clocks of this machine and there."""
    return bool(look(place)) and sign_age(place) < locks.STALE_S


def look(place) -> dict:
    """What the holder wrote; empty if nobody holds the lock."""
    try:
        return json.loads(buckets.read(place))
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"holder": "another process"}


def sign_age(place) -> float:
    """Seconds since the holder gave a sign; infinite if it is gone."""
    try:
        return max(0.0, buckets.age(place, time.time()))
    except FileNotFoundError:
        return float("inf")
