"""The folder of a run in a bucket: its small files in a local folder, sent there regularly.

Files of a run grow, which objects of a bucket cannot. So a process works in a temporary local
folder, a mirror, that begins as a copy of the small files in the bucket. What changes is sent
every RHYTHM_S seconds, before each checkpoint and at the end; the bucket counts, and the mirror
is removed at the end. Checkpoints and compiled programs are not mirrored: they are read and
written in the bucket itself.
"""

import atexit
import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
import threading

import jax

from core.base import bucket_lock, buckets
from core.base.places import local_folder
from core.base.waiting import repeating
from core.parallel import peers

ADDRESS = "bucket.txt"  # in the mirror: where it belongs
CHECKPOINTS, COMPILED, ASIDE, LOCK = "checkpoints", "compiled", "set_aside", ".lock"
REPLAY = "replay"
APPENDED = "lineage.jsonl"  # by several processes: lines of others are kept
RHYTHM_S = 30.0
BIG = 2**23  # bytes of a file above which it is not sent at the rhythm


class Mirror:
    """A local folder with the small files of the run at an address.

    address: gs:// or s3://. what: the flag that names it. Raises ValueError if a package is
    missing. Methods raise core.base.buckets.BucketError.
    """

    def __init__(self, address, *, what: str):
        self.place = buckets.bucket_path(address, what=what)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="reverie-run-"))
        (self.folder / ADDRESS).write_text(str(self.place))
        self._sent = {}  # name -> (size, time of change) of what the bucket holds
        self._sending = threading.Lock()
        self._failing = False

    def fetch(self, *, without: tuple[str, ...] = ()):
        """Copy the small files of the bucket here. without: names in the run's folder."""
        left = (CHECKPOINTS, COMPILED, ASIDE, LOCK, *without)
        names = buckets.names_below(self.place, without=left)
        files = [self.folder / name for name in names]
        for folder in {path.parent for path in files}:
            folder.mkdir(parents=True, exist_ok=True)
        with buckets.explained(self.place):
            if names:
                source = [str(self.place / name) for name in names]
                buckets.file_system(self.place).get(source, [str(x) for x in files])
        self._sent = self._files()

    def send(self, *, most: float = float("inf")):
        """Write what changed since the last time to the bucket; remove what is gone.

        most: bytes of a file above which it is left for the next time.
        """
        with self._sending:
            now = self._files()
            for name, stamp in now.items():
                if self._sent.get(name) != stamp and stamp[0] <= most:
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        self._send_file(name)
                        self._sent[name] = stamp
            for name in self._sent.keys() - now.keys():
                buckets.remove(self.place / name)
                del self._sent[name]

    def try_to_send(self):
        """`send` at the rhythm; a failure is said once, and again when it is over."""
        try:
            self.send(most=BIG)
        except buckets.BucketError as error:
            if not self._failing:
                print(f"{error}; trying again every {RHYTHM_S:g} s", flush=True)
            self._failing = True
        else:
            if self._failing:
                print(f"{self.place} can be reached again", flush=True)
            self._failing = False

    def remove(self):
        """Remove the local folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> dict[str, tuple[int, int]]:
        """{name: (size, time of change)} of the files here."""
        found = {}
        for parent, _, names in os.walk(self.folder):
            for name in names:
                path = pathlib.Path(parent, name)
                if path.suffix == ".part" or name == ADDRESS or name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    short = path.relative_to(self.folder).as_posix()
                    found[short] = stat.st_size, stat.st_mtime_ns
        return found

    def _send_file(self, name: str):
        data = (self.folder / name).read_bytes()
        if name == APPENDED:
            with contextlib.suppress(FileNotFoundError):
                data = with_lines(buckets.read(self.place / name), data)
        buckets.write(self.place / name, data)


def with_lines(there: bytes, here: bytes) -> bytes:
    """The lines of `there`, then those that only `here` has."""
    known = there.splitlines()
    new = [line for line in here.splitlines() if line not in set(known)]
    return b"".join(line + b"\n" for line in [*known, *new])


@contextlib.contextmanager
def mirrored(address):
    """Yields the Mirror of a run, which is sent at RHYTHM_S and at the end.

    All processes must call this: each has a folder of its own, whose files have names by
    process. Process 0 holds the lock of the run. A failure to send at the end does not hide
    an error that ends the run.

    Raises ValueError if another job trains there, BucketError if the bucket fails.
    """
    mirror = Mirror(address, what="--workdir")
    lock, doing = mirror.place / LOCK, f"is training in {mirror.place}"
    first = jax.process_index() == 0
    hold = bucket_lock.hold_in_bucket(lock, doing, lost=end_of(mirror.place))
    try:
        with hold if first else contextlib.nullcontext():
            peers.meet("mirror")  # all have sent what they did in a session before
            mirror.fetch()
            with repeating(RHYTHM_S, mirror.try_to_send):
                try:
                    yield mirror
                except BaseException:
                    with contextlib.suppress(buckets.BucketError):
                        mirror.send()
                    raise
            mirror.send()
    finally:
        mirror.remove()


def copied(workdir):
    """(folder, fetch, send) of a run that is read: its folder, or a mirror without lock.

    fetch: brings the small files, but not the replay of agents. The mirror is removed when
    this process ends.
    """
    if not buckets.is_bucket(workdir):
        return local_folder(workdir, what="--workdir"), nothing, nothing
    mirror = Mirror(workdir, what="--workdir")
    atexit.register(mirror.remove)
    return mirror.folder, lambda: mirror.fetch(without=(REPLAY,)), mirror.send


def nothing() -> None:
    """What a folder that mirrors no bucket needs to be fetched and sent."""


def end_of(place):
    """What ends this process when another one took its run, so that one of them writes."""

    def end(holder: str):
        text = (
            f"error: {holder} is training in {place} now, as this process gave no sign"
        )
        print(text, file=sys.stderr, flush=True)
        os._exit(1)

    return end


def is_training(folder) -> bool:
    """Whether a process trains in the run that a folder mirrors."""
    return bucket_lock.is_held(within(folder, LOCK))


def address_of(folder) -> str | None:
    """The address that a folder mirrors; None for the folder of a run itself."""
    path = pathlib.Path(folder) / ADDRESS
    return path.read_text() if path.exists() else None


def shown(folder) -> str:
    """How messages name the folder of a run."""
    return address_of(folder) or str(folder)


def within(folder, name: str):
    """The path of CHECKPOINTS, COMPILED or another name: in the bucket for a mirror."""
    if buckets.is_bucket(folder):
        return folder / name
    address = address_of(folder)
    if address is None:
        return pathlib.Path(folder) / name
    return buckets.bucket_path(address, what="--workdir") / name


def run_place(place, *, what: str):
    """The path of a run's folder or of a checkpoint: local, or in a bucket."""
    if buckets.is_bucket(place):
        return buckets.bucket_path(place, what=what)
    return local_folder(place, what=what)
