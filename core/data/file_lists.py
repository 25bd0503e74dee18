"""The files of a folder or of a list file, their labels, and files at URLs."""

import os
import re
from pathlib import Path

from core.base.names import nearest
from core.base.text import one_line
from core.data.records import BadSample

LINE = re.compile(r"(?P<path>.*?)(?:(?:\s*,\s*|\s+)(?P<label>-?\d+))?")


def find_files(place: str, suffixes, what: str):
    """The files of a folder, or those that a list file names.

    place: a folder, searched with all folders below it; or a text or CSV file with one path
      or URL per line, and optionally an integer label after a comma or space; or a Parquet
      file with a column "path" and optionally "label". Paths are relative to the list file.
    suffixes: of the files, in lower case. what: "videos" or "images", for errors.

    Returns (folder that paths are relative to, paths, labels); labels are empty or one per
    path. Raises ValueError if nothing is found or the list has a mistake.
    """
    path = Path(place).expanduser()
    expected = (
        f"a folder with {', '.join(suffixes)} files, or a text, CSV or Parquet file that "
        f"names {what}"
    )
    if not path.exists():
        raise ValueError(
            f"{place} does not exist{nearest_paths(path)}; expected {expected}"
        )
    if path.is_dir():
        root, paths, labels = path, search_folder(path, suffixes), []
    else:
        read = read_parquet_list if path.suffix == ".parquet" else read_text_list
        root, (paths, labels) = path.parent, read(path, suffixes, expected)
    if not paths:
        raise ValueError(f"{place} has no {what}; expected {expected}")
    if len(labels) not in (0, len(paths)):
        raise ValueError(
            f"{place} has labels for {len(labels)} of its {len(paths)} {what}; expected "
            "all or none"
        )
    some = paths[:: len(paths) // 100 + 1]
    if not any(is_url(path) or (root / path).exists() for path in some):
        raise ValueError(
            f"{place} names {paths[0]}, but {root / paths[0]} does not exist"
            f"{nearest_paths(root / paths[0])}; paths are relative to the list file"
        )
    return str(root), tuple(paths), tuple(labels)


def search_folder(folder, suffixes):
    """Relative paths of all files below a folder, sorted, without hidden ones."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.relpath(os.path.join(place, name), folder)
            for name in files
            if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    return sorted(found)


def _fail(error):
    raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error


def read_text_list(file, suffixes, expected):
    """(paths, labels) of a text or CSV list, one file per line."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text; expected {expected}") from None
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.strip())
        path = match["path"].strip("\"'")
        if not path.lower().endswith(suffixes):
            raise ValueError(
                f"{file} line {number} is {line.strip()!r}; expected the path of a "
                f"file ({', '.join(suffixes)}), then optionally an integer label"
            )
        paths.append(path)
        labels += [int(match["label"])] if match["label"] else []
    return paths, labels


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
        if not isinstance(path, str) or not path.lower().endswith(suffixes):
            raise ValueError(
                f"{file} row {number} has the path {path!r}; expected a file "
                f"({', '.join(suffixes)})"
            )
    labels = columns.get("label", [])
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(f"{file} has labels that are not integers")
    return columns["path"], labels


def is_url(path: str) -> bool:
    return "://" in path


def read_url(url: str) -> bytes:
    """The bytes of a file at a URL that fsspec can open. Raises BadSample."""
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            return file.read()
    except (ImportError, ValueError) as error:  # gs:// without gcsfs; unknown protocol
        raise BadSample(f"{url} cannot be read: {one_line(error)}") from error


def nearest_paths(path) -> str:
    """A hint for a missing path: existing names like its first missing part."""
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    return nearest(path.name, os.listdir(parent), count=3, prefix=f"{parent}{os.sep}")
