"""The files of a folder or of a list file, and their labels."""

import collections
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from absl import logging

from core.base.names import nearest
from core.base.places import expand_home
from core.base.text import name_on_disk, one_line, printable_name
from core.data.files.urls import check_protocol, is_url, shown_url

LINE = re.compile(r"(?P<path>.*?)(?:(?:\s*,\s*|\s+)(?P<label>-?\d+))?")
WORK_MARK = "prepare.lock"  # a file in the work folder of launch.prepare
OUTPUT_MARK = "dataset_info.json"  # a file in a version of a data set
OLD_WORK = re.compile(r"[0-9a-f]{40}")  # folders in work folders of earlier versions


class Files(NamedTuple):
    """What `find_files` finds.

    root: folder that paths are relative to. paths: as they are on disk, or addresses.
    labels: one integer per path, or empty. passed_over: number of files of a folder by
    suffix that are neither read nor hidden.
    """

    root: str
    paths: tuple[str, ...]
    labels: tuple[int, ...] = ()
    passed_over: Mapping[str, int] = MappingProxyType({})

    def names(self) -> list[str]:
        """A printable name of each path, without the query of an address.

        Addresses that differ in their query alone are numbered.
        """
        seen, found = collections.Counter(), []
        for path in self.paths:
            name = shown_url(path) if is_url(path) else printable_name(path)
            seen[name] += is_url(path)
            found.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
        return found


def find_files(place: str, suffixes, what: str) -> Files:
    """The files of a folder, or those that a list file names.

    place: a folder, searched with all folders below it but hidden ones, data sets and the
      work folders of launch.prepare; or a text or CSV file with one path or address per
      line, and optionally an integer label after a comma or space; or a Parquet file with a
      column "path" and optionally "label". Paths are relative to the list file.
    suffixes: of the files, in lower case. what: "videos" or "images", for errors.

    Logs the number of files passed over. Raises ValueError if nothing is found, the list
    has a mistake, or its addresses need a package that is not installed.
    """
    path = expand_home(place)
    expected = (
        f"a folder with {', '.join(suffixes)} files, or a text, CSV or Parquet file that "
        f"names {what}"
    )
    shown = printable_name(str(place))
    if is_url(str(place)):
        raise ValueError(
            f"{shown_url(place)} is an address; write addresses of {what} into a text "
            "file, one per line, and name that file; for data sets mount the bucket"
        )
    if not path.exists():
        raise ValueError(
            f"{shown} does not exist{nearest_paths(path)}; expected {expected}"
        )
    if path.is_dir():
        found = search_folder(path, suffixes)
    else:
        read = read_parquet_list if path.suffix == ".parquet" else read_text_list
        found = Files(str(path.parent), *read(path, suffixes, expected))
    passed_over = describe_passed_over(found.passed_over)
    if not found.paths:
        there = f", but {passed_over}" if passed_over else ""
        if path.is_dir() and is_own(path, os.listdir(path), os.listdir(path)):
            there = ": it is a data set, or the work folder of launch.prepare"
        raise ValueError(f"{shown} has no {what}{there}; expected {expected}")
    if passed_over:
        log_once(f"{shown}: {passed_over} passed over by suffix; {what} are the others")
    check_list(shown, found, what)
    return found


def check_list(shown, found: Files, what):
    """Raise ValueError on missing labels, protocols that cannot be read, or if none of
    some files exists.
    """
    root, paths, labels = Path(found.root), found.paths, found.labels
    if len(labels) not in (0, len(paths)):
        raise ValueError(
            f"{shown} has labels for {len(labels)} of its {len(paths)} {what}; expected "
            "all or none"
        )
    for url in {x.partition("://")[0]: x for x in paths if is_url(x)}.values():
        try:
            check_protocol(url)
        except ValueError as error:
            raise ValueError(f"{shown} names an address: {error}") from None
    some = paths[:: len(paths) // 100 + 1]
    if not any(is_url(path) or (root / path).exists() for path in some):
        name, whole = printable_name(paths[0]), printable_name(str(root / paths[0]))
        raise ValueError(
            f"{shown} names {name}, but {whole} does not exist"
            f"{nearest_paths(root / paths[0])}; paths are relative to the list file"
        )


def search_folder(folder, suffixes) -> Files:
    """All files below a folder, sorted, without hidden ones, data sets and work folders."""
    found, seen, passed_over = [], set(), collections.Counter()
    for place, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        real = os.path.realpath(place)
        # A link to a folder above, or what launch.prepare writes.
        if real in seen or is_own(place, folders, files):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            if name.lower().endswith(suffixes):
                found.append(os.path.relpath(os.path.join(place, name), folder))
            else:
                suffix = os.path.splitext(name)[1].lower()
                passed_over[printable_name(suffix)] += 1
    return Files(str(folder), tuple(sorted(found)), (), dict(passed_over))


def is_own(place, folders, files) -> bool:
    """Whether a folder is a data set, or a work folder of launch.prepare."""
    if WORK_MARK in files or OUTPUT_MARK in files:
        return True
    old = str(place).endswith(".work") and not files
    return old and bool(folders) and all(map(OLD_WORK.fullmatch, folders))


def _fail(error):
    name = printable_name(error.filename)
    raise ValueError(f"{name} cannot be read: {error.strerror}") from error


def describe_passed_over(counts: Mapping[str, int]) -> str:
    """ "7 files (5 .gif, 2 without suffix)", the most frequent first; "" for none."""
    if not counts:
        return ""
    order = sorted(counts, key=lambda suffix: (-counts[suffix], suffix))
    parts = [f"{counts[x]} {x or 'without suffix'}" for x in order[:8]]
    parts += [f"{len(order) - 8} more suffixes"] if len(order) > 8 else []
    total = sum(counts.values())
    return f"{total} file{'s' if total > 1 else ''} ({', '.join(parts)})"


@functools.cache
def log_once(text: str):
    """Log a warning once per process: a place is opened for several splits."""
    logging.warning("%s", text)


def read_text_list(file, suffixes, expected):
    """(paths, labels) of a text or CSV list, one file per line.

    Names need not be UTF-8; those in the form of `printable_name` are found too.
    """
    content = file.read_bytes()
    if b"\0" in content:
        raise ValueError(f"{file} is not text; expected {expected}")
    text = content.decode("utf-8-sig", "surrogateescape")
    paths, labels = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.strip())
        path = match["path"].strip("\"'")
        if not has_suffix(path, suffixes):
            shown = shown_url(path) if is_url(path) else printable_name(line.strip())
            raise ValueError(
                f"{file} line {number} is {shown!r}; expected the path of a "
                f"file ({', '.join(suffixes)}), then optionally an integer label"
            )
        paths.append(listed_path(file.parent, path))
        labels += [int(match["label"])] if match["label"] else []
    return tuple(paths), tuple(labels)


def has_suffix(path: str, suffixes) -> bool:
    """Whether a path has one of the suffixes, or an address before its query."""
    path = shown_url(path) if is_url(path) else path
    return path.lower().endswith(suffixes)


def listed_path(folder, path: str) -> str:
    """A path of a list as it is on disk: ~ and the escapes of `printable_name` resolved."""
    if is_url(path):
        return path
    path = os.path.expanduser(path)
    if "\\x" in path and not (folder / path).exists():
        return name_on_disk(path)
    return path


def read_parquet_list(file, suffixes, expected):
    """(paths, labels) of the columns "path" and "label" of a Parquet file."""
    import pyarrow
    from pyarrow import parquet  # slow to import, and most lists are text

    try:
        names = parquet.read_schema(file).names
        wanted = [name for name in ("path", "label") if name in names]
        columns = parquet.read_table(file, columns=wanted).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{file} cannot be read as Parquet: {one_line(error)}"
        ) from error
    if "path" not in columns:
        raise ValueError(f'{file} has the columns {names}; expected "path" among them')
    for number, path in enumerate(columns["path"]):
        if not isinstance(path, str) or not has_suffix(path, suffixes):
            shown = shown_url(path) if is_url(str(path)) else path
            raise ValueError(
                f"{file} row {number} has the path {shown!r}; expected a file "
                f"({', '.join(suffixes)})"
            )
    labels = columns.get("label", [])
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(f"{file} has labels that are not integers")
    paths = [listed_path(file.parent, path) for path in columns["path"]]
    return tuple(paths), tuple(labels)


def nearest_paths(path) -> str:
    """A hint for a missing path: existing names like its first missing part."""
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    names = map(printable_name, os.listdir(parent))
    prefix = f"{printable_name(str(parent))}{os.sep}"
    return nearest(printable_name(path.name), names, count=3, prefix=prefix)
