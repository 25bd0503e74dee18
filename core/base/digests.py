"""SHA-256 digests of the files in a folder: written beside them, compared on reading."""

import concurrent.futures
from collections.abc import Iterable, Mapping

from core.base.files import as_path, digest, os_error_text

SUMS = "SHA256SUMS"  # `sha256sum -c SHA256SUMS` in the folder compares, too
THREADS = 8  # hashing releases the interpreter's lock


def digest_files(folder, names: Iterable[str]) -> dict[str, str]:
    """The digest of each file, by its path relative to `folder`. Raises OSError."""
    names = sorted(names)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        digests = threads.map(digest, [as_path(folder) / name for name in names])
        return dict(zip(names, digests, strict=True))


def find_damage(folder, digests: Mapping[str, str]) -> str:
    """The first file that is missing or has another digest, in words; "" if none has.

    digests: by path relative to `folder`. Other files there are ignored.
    """

    def compare(name):
        try:
            same = digest(as_path(folder) / name) == digests[name]
        except OSError as error:
            return f"{name}: {os_error_text(error)}"
        return "" if same else f"{name} is not what was written, by its SHA-256"

    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        return next(filter(None, threads.map(compare, sorted(digests))), "")


def write_sums(folder, names: Iterable[str]):
    """Write FOLDER/SHA256SUMS, in the format of sha256sum. Raises OSError."""
    lines = [f"{x}  {name}\n" for name, x in digest_files(folder, names).items()]
    (as_path(folder) / SUMS).write_text("".join(lines))


def read_sums(folder) -> dict[str, str]:
    """The digests in FOLDER/SHA256SUMS, by path; empty if there is no such file.

    Raises ValueError if the file is damaged.
    """
    path = as_path(folder) / SUMS
    if not path.exists():
        return {}
    try:
        pairs = [line.split("  ", 1) for line in path.read_text().splitlines()]
        digests = {name: x for x, name in pairs}
    except (ValueError, OSError):
        digests = {}
    if not digests:
        raise ValueError(f"{SUMS} is damaged")
    return digests
