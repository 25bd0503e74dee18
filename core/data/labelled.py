"""Labelled videos: class folders, lists, tables or TFDS, in two parts to train and validate."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core.base.files import digest
from core.base.places import expand_home
from core.data.decoding.video import SUFFIXES
from core.data.files import file_lists
from core.data.files.urls import is_url, open_url
from core.data.labelled_tables import (
    Row,
    check_videos_exist,
    classes_of,
    is_table,
    read_table,
)
from core.data.tfds import Shards, find_dataset, is_prepared, open_builder

TRAIN, VALIDATION = ("train", "training"), ("val", "validation", "valid", "test")
VALIDATION_ONE_IN = 5  # of each class, where there is no split


class Labelled(NamedTuple):
    """Videos and their classes. labels: int64 [n].

    paths: relative to root, or addresses; of `shards`, the numbers of their examples.
    """

    root: str
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    shards: Shards | None = None

    def take(self, rows) -> "Labelled":
        """The videos of these rows."""
        paths = tuple(self.paths[i] for i in rows)
        return self._replace(paths=paths, labels=self.labels[rows])

    def video(self, row: int) -> Any:
        """What `read_views` takes: a path, a file, its bytes, or a list of pictures."""
        path = self.paths[row]
        if self.shards is not None:
            video = self.shards[int(path)]["video"]
            return list(video) if np.ndim(video) else bytes(video)
        return open_url(path) if is_url(path) else str(pathlib.Path(self.root) / path)


def read_labelled(place: str) -> tuple[Labelled, Labelled]:
    """(training videos, validation videos) of a place.

    place: a folder with one folder per class; or one with folders "train" and "val",
    "validation" or "test" of that kind; or a list file (core/data/files/file_lists.py) with
    integer labels; or a table (core/data/labelled_tables.py), whose column "split" may name
    the parts likewise; or two of these with a comma between, the second for validation; or
    tfds:NAME as in core/data/source_names.py. One place without a split gives every fifth
    video of each class to validation, in the order of the digests of their names, so that
    the split does not follow recording sessions.

    Raises ValueError if listed videos are missing, a video has two labels, a class that is
    split has a single video, or a class of the validation videos has none for training.
    """
    if place.startswith("tfds:") or is_prepared(place):
        return read_shards(place)
    first, comma, second = place.partition(",")
    if comma:
        return matched(read_one(first), read_one(second), place)
    path = expand_home(first)
    halves = [next((path / n for n in names if (path / n).is_dir()), None)
              for names in (TRAIN, VALIDATION)]  # fmt: skip
    if all(halves):
        train, validation = (read_one(str(half)) for half in halves)
        return matched(train, validation, place)
    if path.is_file() and is_table(path):
        rows = read_table(path)
        if any(row.split for row in rows):
            return split_by_column(rows, path)
    return split(read_one(first), place)


def read_one(place: str) -> Labelled:
    """The videos of one folder of class folders, or of one list file or table."""
    path = expand_home(place)
    if path.is_dir():
        paths = file_lists.search_folder(path, SUFFIXES).paths
        nested = [p for p in paths if os.sep in p]
        if not nested or len(nested) < len(paths):
            odd = next((p for p in paths if os.sep not in p), None)
            found = f"{odd} lies in no class folder" if odd else "it holds no videos"
            raise ValueError(
                f"{place}: {found}; expected CLASS/NAME with one of {', '.join(SUFFIXES)}"
            )
        names = [p.split(os.sep)[0] for p in paths]
        return labelled(str(path), paths, names, tuple(sorted(set(names))))
    if path.is_file() and is_table(path):
        return of_rows(read_table(path), path)
    root, paths, labels, *_ = file_lists.find_files(place, SUFFIXES, "videos")
    if not labels:
        raise ValueError(
            f"{place} has no labels; expected an integer after each path, or a header with "
            "the columns path and label"
        )
    check_videos_exist(place, root, paths)
    if min(labels) < 0:
        row = int(np.argmin(labels))
        raise ValueError(
            f"{place}: {paths[row]} has the label {labels[row]}, expected >= 0"
        )
    known: dict[str, int] = {}
    for name, label in zip(paths, labels, strict=True):
        if known.setdefault(name, label) != label:
            raise ValueError(
                f"{place}: {name} has the labels {known[name]} and {label}; expected one"
            )
    numbers = tuple(map(str, known.values()))
    return labelled(root, tuple(known), numbers, classes_of(numbers))


def of_rows(rows: Sequence[Row], table: pathlib.Path) -> Labelled:
    """The videos of rows of a table."""
    labels = [row.label for row in rows]
    paths = [row.path for row in rows]
    return labelled(str(table.parent), paths, labels, classes_of(labels))


def labelled(root: str, paths, names: Sequence[str], classes) -> Labelled:
    """Videos whose classes are given by name."""
    index = {name: i for i, name in enumerate(classes)}
    # Of numbers, 07 is 7.
    labels = [index[n] if n in index else int(n) for n in names]
    return Labelled(root, tuple(paths), np.asarray(labels, np.int64), classes)


def split_by_column(
    rows: Sequence[Row], table: pathlib.Path
) -> tuple[Labelled, Labelled]:
    """Both parts of a table that names them; raises ValueError for other names."""
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        name = row.split.lower()
        if name not in (*TRAIN, *VALIDATION):
            raise ValueError(
                f"{table}: {row.path} has the split {row.split!r}; expected one of "
                f"{', '.join((*TRAIN, *VALIDATION))}"
            )
        parts[name in VALIDATION].append(row)
    for part, names in zip(parts, (TRAIN, VALIDATION), strict=True):
        if not part:
            raise ValueError(f"{table} has no rows of the split {names[0]!r}")
    train, validation = (of_rows(part, table) for part in parts)
    return matched(train, validation, str(table))


def read_shards(place: str) -> tuple[Labelled, Labelled]:
    """Both parts of a data set of tensorflow-datasets with "video" and "label".

    Validation is as in core/data/tfds.py:Shards. Raises ValueError for other features.
    """
    folder = find_dataset(place[5:]) if place.startswith("tfds:") else place
    parts = []
    for half in ("train", "validation"):
        shards = Shards(str(folder), half)
        if not {"video", "label"} <= set(shards.features):
            raise ValueError(
                f"{place} has the features {', '.join(shards.features)}; expected 'video' "
                "and 'label'"
            )
        kind = open_builder(shards.place).info.features["label"]
        labels = [int(shards[i]["label"]) for i in range(len(shards))]
        numbers = tuple(map(str, range(max(labels) + 1)))
        classes = tuple(getattr(kind, "names", None) or numbers)
        # Where the validation part is cut from "train", numbers alone would be the same.
        root = f"{shards.place}:{shards.section}:{shards.start}"
        paths = tuple(map(str, range(len(shards))))
        parts.append(
            Labelled(root, paths, np.asarray(labels, np.int64), classes, shards)
        )
    return matched(*parts, place)


def matched(
    train: Labelled, validation: Labelled, place: str
) -> tuple[Labelled, Labelled]:
    """Both parts with the classes of the training part.

    Raises ValueError for classes that training lacks, and videos that are in both parts.
    """
    known = {train.classes[i]: i for i in np.unique(train.labels)}
    used = {validation.classes[i] for i in np.unique(validation.labels)}
    if new := sorted(used - known.keys()):
        more = f" and {len(new) - 3} more" if len(new) > 3 else ""
        many = "classes" if len(new) > 1 else "class"
        have = "have" if len(new) > 1 else "has"
        raise ValueError(
            f"{place}: {many} {', '.join(new[:3])}{more} {have} validation videos, none to "
            "train on"
        )
    if train.shards is None and train.root == validation.root:
        if both := sorted(set(train.paths) & set(validation.paths)):
            raise ValueError(
                f"{place}: {both[0]} and {len(both) - 1} more videos are in both parts"
            )
    index = np.asarray([known.get(name, -1) for name in validation.classes])
    labels = index[validation.labels]
    return train, validation._replace(labels=labels, classes=train.classes)


def split(videos: Labelled, place: str) -> tuple[Labelled, Labelled]:
    """Every fifth video of each class, at least one, for validation; the rest to train on."""
    ranks = [digest(path.encode("utf-8", "surrogateescape")) for path in videos.paths]
    chosen: list[int] = []
    for i, name in enumerate(videos.classes):
        rows = sorted(np.flatnonzero(videos.labels == i), key=lambda row: ranks[row])
        if len(rows) == 1:
            raise ValueError(
                f"{place}: class {name} has one video, {videos.paths[rows[0]]}; expected "
                "two or more, one of them for validation"
            )
        chosen += rows[: -(-len(rows) // VALIDATION_ONE_IN)]
    rest = np.setdiff1d(np.arange(len(videos.paths)), chosen)
    return videos.take(rest), videos.take(np.sort(chosen))


def count_classes(labels: Sequence[int], classes: Sequence[str]) -> dict[str, int]:
    """Videos per class, by name."""
    counts = np.bincount(np.asarray(labels, np.int64), minlength=len(classes))
    return dict(zip(classes, map(int, counts), strict=True))
