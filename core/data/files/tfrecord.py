"""Random access to the records of TFRecord files, without TensorFlow.

A record is its length (uint64), the masked CRC-32C of the length, the data, and the masked
CRC-32C of the data; all numbers are little-endian. Source: tensorflow.org/tutorials/
load_data/tfrecord, "TFRecords format details". A file may be compressed as a whole, with
GZIP or ZLIB.

A file is indexed once: where each record begins. The index is kept beside the file as
.NAME.index, or in `cache_folder` if that folder is read-only. It is made again when the
size or the time of the file changes. A compressed file is decompressed once into
`cache_folder`.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import struct
import tempfile
import zlib
from typing import NamedTuple

import numpy as np
from absl import logging

from core.base.files import os_error_text
from core.data.files.crc32c import crc32c, masked
from core.data.records import BadSample

FORMAT = 1  # of an index
HEAD, TAIL = 12, 4  # bytes before and after the data of a record
BLOCK = 1 << 20  # bytes that are decompressed at once
AGAIN = "download or copy it again"


class RecordIndex(NamedTuple):
    """Where the whole records of a file are.

    path: of the file, or of its decompressed copy. starts: int64 [records + 1], the first
    byte of each record and the end of the last.
    """

    path: pathlib.Path
    starts: np.ndarray

    def __len__(self):
        return len(self.starts) - 1


def read_record(path, number: int, *, expected: int) -> bytes:
    """The data of a record. expected: records that the file should have.

    Raises BadSample, with the file and the remedy, if the record is cut or damaged.
    """
    index = open_index(os.path.abspath(path))
    name = os.path.basename(path)
    if len(index) > expected:
        raise BadSample(
            f"{name} has {len(index)} records, but dataset_info.json says {expected}; "
            "they are not of the same version"
        )
    first = int(index.starts[min(number, len(index))])
    with open(index.path, "rb") as file:
        file.seek(first)
        if number < len(index):
            record = file.read(int(index.starts[number + 1]) - first)
        else:
            head = file.read(HEAD)
            is_cut = len(head) < HEAD or read_length(head) is not None
            raise BadSample(
                f"{name} is {'cut' if is_cut else 'damaged'} after byte {first} and "
                f"{len(index)} of {expected} records; {AGAIN}"
            )
    data = record[HEAD:-TAIL]
    if read_length(record) == len(data):
        if masked(crc32c(data)) == int.from_bytes(record[-TAIL:], "little"):
            return data
    raise BadSample(f"{name}: the checksum of record {number} does not match; {AGAIN}")


def read_length(head: bytes) -> int | None:
    """The bytes of data that the head of a record states; None if its checksum is wrong."""
    if len(head) < HEAD:
        return None
    length, check = struct.unpack("<QI", head[:HEAD])
    return length if masked(crc32c(head[:8])) == check else None


@functools.lru_cache(4096)
def open_index(path: str) -> RecordIndex:
    """The index of a file, made if there is none that fits. Raises BadSample."""
    path = pathlib.Path(path)
    try:
        if is_compressed(path):
            return index_compressed(path)
        places = (path.with_name(f".{path.name}.index"), in_cache(path, "index"))
        for place in places:
            if (starts := load_starts(place, path)) is not None:
                return RecordIndex(path, starts)
        starts = find_starts(path)
    except OSError as error:
        raise BadSample(f"{path.name} cannot be read: {os_error_text(error)}") from None
    for place in places:
        with contextlib.suppress(OSError):  # a read-only folder
            save_starts(place, path, starts)
            break
    return RecordIndex(path, starts)


def find_starts(path) -> np.ndarray:
    """First bytes of the whole records of a file, and the end of the last one."""
    starts, size = [0], os.path.getsize(path)
    with open(path, "rb") as file:
        while (length := read_length(file.read(HEAD))) is not None:
            stop = starts[-1] + HEAD + length + TAIL
            if stop > size:
                break
            starts.append(stop)
            file.seek(stop)
    return np.array(starts, np.int64)


def load_starts(place, path) -> np.ndarray | None:
    """The offsets in an index file; None if it is missing, damaged or of another file."""
    try:
        values = np.frombuffer(place.read_bytes(), "<i8")
    except (OSError, ValueError):
        return None
    checksum, about, starts = values[:1], values[1:4], values[4:]
    fits = len(starts) and about.tolist() == stamp(path)
    return starts if fits and checksum == zlib.crc32(values[1:].tobytes()) else None


def save_starts(place, path, starts):
    """Write an index atomically."""
    values = np.array([*stamp(path), *starts], "<i8").tobytes()
    place.parent.mkdir(parents=True, exist_ok=True)
    content = np.array([zlib.crc32(values)], "<i8").tobytes() + values
    part = place.with_name(f"{place.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(place)


def stamp(path) -> list[int]:
    """What an index depends on: its format, and the size and the time of the file."""
    about = os.stat(path)
    return [FORMAT, about.st_size, about.st_mtime_ns]


def is_compressed(path) -> bool:
    """Whether a file begins as GZIP or ZLIB does, and not with the head of a record."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if len(head) < HEAD or read_length(head) is not None:
        return False
    first = int.from_bytes(head[:2], "big")
    return first == 0x1F8B or (head[0] & 15 == 8 and first % 31 == 0)


def index_compressed(path) -> RecordIndex:
    """The index of a compressed file's copy, which is made once. Raises BadSample."""
    plain, place = in_cache(path, "records"), in_cache(path, "index")
    try:
        plain.parent.mkdir(parents=True, exist_ok=True)
        with open(in_cache(path, "lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one worker decompresses, others wait
            starts = load_starts(place, path)
            if starts is None or not plain.exists():
                size = path.stat().st_size / 1e6
                logging.warning("decompressing %s (%.0f MB) to %s", path, size, plain)
                decompress(path, plain)
                starts = find_starts(plain)
                save_starts(place, path, starts)
    except OSError as error:
        raise BadSample(
            f"{path.name} cannot be decompressed to {plain.parent}: "
            f"{os_error_text(error)}; set XDG_CACHE_HOME to a folder with more room"
        ) from None
    return RecordIndex(plain, starts)


def decompress(path, plain):
    """Decompress GZIP or ZLIB, up to where the file is cut or damaged."""
    part = plain.with_name(f"{plain.name}.{os.getpid()}")
    try:
        with open(path, "rb") as file, open(part, "wb") as out:
            stream = zlib.decompressobj(wbits=47)  # 32 + 15: both, with any window
            with contextlib.suppress(zlib.error):
                while block := stream.unused_data or file.read(BLOCK):
                    if stream.eof:
                        stream = zlib.decompressobj(wbits=47)
                    out.write(stream.decompress(block))
        part.replace(plain)
    finally:
        part.unlink(missing_ok=True)


def in_cache(path, kind: str) -> pathlib.Path:
    """The path in the cache of something that belongs to a file."""
    place = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return cache_folder() / f"{path.name}-{place}.{kind}"


def cache_folder() -> pathlib.Path:
    """$XDG_CACHE_HOME/reverie, ~/.cache/reverie, or one for temporary files if no home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home):
        home = os.path.join(tempfile.gettempdir(), f"cache-{os.getuid()}")
    return pathlib.Path(home) / "reverie"
