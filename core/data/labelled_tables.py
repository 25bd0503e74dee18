"""Tables of labelled videos: CSV or Parquet with the columns path, label and split."""

import csv
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from core.base.text import one_line, printable_name
from core.data.decoding.video import SUFFIXES
from core.data.files.file_lists import has_suffix, listed_path
from core.data.files.urls import is_url, shown_url

COLUMNS = ("path", "label", "split")
NUMBER = re.compile(r"\d+")


class Row(NamedTuple):
    """A video of a table. path: relative to the table's folder, or an address."""

    path: str
    label: str
    split: str


def is_table(path: pathlib.Path) -> bool:
    """Whether a file is Parquet, or text whose first line names the columns."""
    if path.suffix == ".parquet":
        return True
    with open(path, "rb") as file:
        first = file.readline(4096).decode("utf-8-sig", "replace")
    names = [name.strip().lower() for name in first.split(",")]
    return {"path", "label"} <= set(names)


def read_table(path: pathlib.Path) -> list[Row]:
    """The rows of a table, in order; a row that stands there twice is given once.

    Raises ValueError if a column or a value is missing, a path is no video, a video has
    two labels or is in two splits, or videos do not exist.
    """
    columns = parquet_columns(path) if path.suffix == ".parquet" else csv_columns(path)
    if missing := [name for name in COLUMNS[:2] if name not in columns]:
        raise ValueError(
            f"{path} has the columns {', '.join(columns)}; expected {missing[0]!r} among "
            "them"
        )
    found: dict[str, Row] = {}
    count = len(columns["path"])
    splits = columns.get("split", [""] * count)
    values = zip(columns["path"], columns["label"], splits, strict=True)
    for number, (name, label, split) in enumerate(values, 1):
        if name is None or label in (None, "") or split is None:
            raise ValueError(f"{path} row {number} has an empty cell")
        name = str(name)
        if not has_suffix(name, SUFFIXES):
            shown = shown_url(name) if is_url(name) else printable_name(name)
            raise ValueError(
                f"{path} row {number} has the path {shown!r}; expected a video "
                f"({', '.join(SUFFIXES)})"
            )
        row = Row(
            listed_path(path.parent, name), str(label).strip(), str(split).strip()
        )
        check_same(found.setdefault(row.path, row), row, path)
    if not found:
        raise ValueError(f"{path} has no rows")
    check_videos_exist(path, path.parent, list(found))
    return list(found.values())


def check_same(first: Row, row: Row, place) -> None:
    """Raise ValueError if two rows of a video differ."""
    for what in ("label", "split"):
        a, b = getattr(first, what), getattr(row, what)
        if a != b:
            raise ValueError(
                f"{place}: {printable_name(row.path)} has the {what}s {a!r} and {b!r}; "
                "expected one"
            )


def check_videos_exist(place, root, paths: Sequence[str]) -> None:
    """Raise ValueError with the number and first names of files that are not there."""
    missing = [
        name
        for name in paths
        if not is_url(name) and not os.path.exists(os.path.join(root, name))
    ]
    if missing:
        some = ", ".join(map(printable_name, missing[:3]))
        raise ValueError(
            f"{place} names {len(missing)} of {len(paths)} videos that do not exist below "
            f"{root}: {some}{', ...' if len(missing) > 3 else ''}"
        )


def csv_columns(path: pathlib.Path) -> dict[str, list]:
    """The columns of a CSV file by name, in lower case. Raises ValueError."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {one_line(error)}") from error
    names = reader.fieldnames or []
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(
                f"{path} row {number} has not {len(names)} cells, as the header has"
            )
    return {name.strip().lower(): [row[name] for row in rows] for name in names}


def parquet_columns(path: pathlib.Path, columns=COLUMNS) -> dict[str, list]:
    """Those of `columns` that a Parquet file has. Raises ValueError."""
    import pyarrow
    from pyarrow import parquet  # slow to import, and most tables are text

    try:
        names = parquet.read_schema(path).names
        wanted = [name for name in columns if name in names]
        return parquet.read_table(path, columns=wanted).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as Parquet: {one_line(error)}"
        ) from error


def classes_of(names: Sequence[str]) -> tuple[str, ...]:
    """The classes of labels: "0" to the largest if all are numbers, else the sorted names."""
    if all(map(NUMBER.fullmatch, names)):
        return tuple(map(str, range(max(map(int, names)) + 1)))
    return tuple(sorted(set(names)))
