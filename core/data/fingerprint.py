"""Fingerprints of data sets: how many files, and a digest of their names and sizes.

A run keeps the fingerprint of its data, so that it does not go on with other data under the
same name. Contents are not read. Names are relative to the data's folder, or as a list has
them, so data that moves keeps its fingerprint. Of URLs neither the size is asked for nor the
part after "?" compared, which signed addresses change.
"""

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence
from typing import Any

from core.data.file_lists import is_url
from core.data.mixture import Mixture

SIZES = 10_000  # files at most whose size is asked for, spread evenly over the names
THREADS = 16  # a file system over a network answers slowly


def fingerprint(records) -> list[dict[str, Any]]:
    """One fingerprint per part of a mixture, in order; one for any other records.

    {"place": absolute folder, "files": count, "bytes": of those whose size
    is asked for, "digest": SHA-256 of names and sizes}. Only {"place": ""} for records that
    are computed, such as the embedded world.

    Records on disk have `listed_files()`, which returns (folder, names), or the attribute
    `folder`: then all files below it count, except hidden ones.
    """
    if isinstance(records, Mixture):
        return [found for part in records.parts for found in fingerprint(part)]
    root, names = files_of(records)
    if not root:
        return [{"place": ""}]
    step = len(names) // SIZES + 1
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        sizes = list(threads.map(lambda name: size_of(root, name), names[::step]))
    digest = hashlib.sha256()
    for number, name in enumerate(names):
        size = sizes[number // step] if number % step == 0 else ""
        plain = name.partition("?")[0] if is_url(name) else name
        digest.update(os.fsencode(f"{plain}\0{size}\n"))
    return [
        {
            "place": os.path.abspath(root),
            "files": len(names),
            "bytes": sum(size for size in sizes if size is not None),
            "digest": digest.hexdigest(),
        }
    ]


def files_of(records) -> tuple[str, Sequence[str]]:
    """(folder, names of files in it) that records are read from; ("", ()) if from none."""
    while hasattr(records, "inner"):
        records = records.inner
    if hasattr(records, "listed_files"):
        return records.listed_files()
    folder = os.path.expanduser(getattr(records, "folder", ""))
    return (folder, visible_files(folder)) if folder else ("", ())


def visible_files(folder: str) -> list[str]:
    """Relative paths of the files below a folder, sorted, without hidden ones."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (os.path.join(place, x) for x in files if not x.startswith("."))
        found += [os.path.relpath(path, folder) for path in paths]
    return sorted(found)


def size_of(root: str, name: str) -> int | None:
    """The size of a file in bytes; None of a URL, and where there is no such file."""
    try:
        return None if is_url(name) else os.stat(os.path.join(root, name)).st_size
    except OSError:
        return None
