"""Labelled videos: class folders or lists, in a training and a validation part."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.base.files import digest
from core.base.places import expand_home
from core.data.decoding.video import SUFFIXES
from core.data.files import file_lists
from core.data.files.urls import is_url

TRAIN, VALIDATION = ("train", "training"), ("val", "validation", "valid", "test")
VALIDATION_ONE_IN = 5  # of each class, where there is no split


class Labelled(NamedTuple):
    """Videos and their classes. paths are relative to root; labels: int64 [n]."""

    root: str
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def take(self, rows) -> "Labelled":
        """The videos of these rows."""
        paths = tuple(self.paths[i] for i in rows)
        return self._replace(paths=paths, labels=self.labels[rows])


def read_labelled(place: str) -> tuple[Labelled, Labelled]:
    """(training videos, validation videos) of a place.

    place: a folder with one folder per class; or one with folders "train" and "val",
    "validation" or "test" of that kind; or a list file (core/data/files/file_lists.py) with
    integer labels; or two of these with a comma between, the second for validation. One
    place without a split gives every fifth video of each class to validation, in the order
    of the digests of their names, so that the split does not follow recording sessions.

    Raises ValueError if a listed video is missing, a class has a single video, or a class
    of the validation videos has none for training.
    """
    first, comma, second = place.partition(",")
    if comma:
        return matched(read_one(first), read_one(second), place)
    folder = expand_home(first)
    halves = [next((folder / n for n in names if (folder / n).is_dir()), None)
              for names in (TRAIN, VALIDATION)]  # fmt: skip
    if all(halves):
        train, validation = (read_one(str(half)) for half in halves)
        return matched(train, validation, place)
    return split(read_one(first), place)


def read_one(place: str) -> Labelled:
    """The videos of one folder of class folders, or of one list file."""
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
        classes, labels = np.unique(names, return_inverse=True)
        return Labelled(str(path), tuple(paths), labels, tuple(map(str, classes)))
    root, paths, labels, *_ = file_lists.find_files(place, SUFFIXES, "videos")
    if not labels:
        raise ValueError(f"{place} has no labels; expected an integer after each path")
    for name in paths:
        if not is_url(name) and not os.path.exists(os.path.join(root, name)):
            raise ValueError(f"{place} names {name}, which does not exist below {root}")
    numbers = np.asarray(labels, np.int64)
    classes = tuple(map(str, range(int(numbers.max()) + 1)))
    if numbers.min() < 0:
        row = int(numbers.argmin())
        raise ValueError(
            f"{place}: {paths[row]} has the label {labels[row]}, expected >= 0"
        )
    return Labelled(root, tuple(paths), numbers, classes)


def matched(
    train: Labelled, validation: Labelled, place: str
) -> tuple[Labelled, Labelled]:
    """Both parts with the classes of the training part."""
    known = {name: i for i, name in enumerate(train.classes)}
    for name in validation.classes:
        if (
            name not in known
            and (validation.labels == validation.classes.index(name)).any()
        ):
            raise ValueError(
                f"{place}: class {name} has validation videos, none to train on"
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
