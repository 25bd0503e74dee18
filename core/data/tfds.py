"""Data sets of tensorflow-datasets, read without TensorFlow: where they are, what is in them.

Such a data set is a folder of array_record shards with a dataset_info.json, under
DATA_DIR/NAME[/CONFIG]/VERSION.
"""

import dataclasses
import difflib
import functools
import itertools
import json
import os
import pathlib
from bisect import bisect_right

import numpy as np

from core.base.text import one_line
from core.data.records import BadSample, held_from

INFO = "dataset_info.json"
HOME = "~/tensorflow_datasets"  # unless TFDS_DATA_DIR says otherwise


def is_prepared(place) -> bool:
    """Whether a folder is a data set of this kind, or holds its versions."""
    place = pathlib.Path(place).expanduser()
    return (place / INFO).is_file() or any(place.glob(f"*/{INFO}"))


def locate(name: str) -> pathlib.Path:
    """The folder of NAME, NAME/CONFIG, with :VERSION or without for the newest."""
    home = pathlib.Path(os.environ.get("TFDS_DATA_DIR", HOME)).expanduser()
    name, _, version = name.partition(":")
    folder = home / name / version if version else home / name
    if is_prepared(folder):
        return folder
    if version and is_prepared(home / name):
        there = ", ".join(path.parent.name for path in versions(home / name))
        raise ValueError(f"tfds:{name} has the versions {there}, not {version}")
    known = sorted(
        str(path.parent.parent.relative_to(home))
        for depth in ("*/*", "*/*/*")
        for path in home.glob(f"{depth}/{INFO}")
    )
    close = difflib.get_close_matches(name, known) or known[:8]
    hint = f"there are {', '.join(close)}" if close else "there is none"
    raise ValueError(f"no data set {name} in {home}, the TFDS_DATA_DIR: {hint}")


def versions(folder) -> list[pathlib.Path]:
    """The dataset_info.json of each version, the newest last."""

    def number(path):
        return [int(x) if x.isdigit() else -1 for x in path.parent.name.split(".")]

    return sorted(pathlib.Path(folder).glob(f"*/{INFO}"), key=number)


@dataclasses.dataclass(frozen=True)
class Shards:
    """Examples of a split, by number; picklable, and opened by the process that reads.

    folder: of the data set, or of its versions, of which the newest is taken.
    split: "train" or "validation": the validation split, else the test split, else the last
      20th of train, which "train" then leaves out; but not where examples name a source.
      Empty: train as it is.
    """

    folder: str
    split: str
    place: str = dataclasses.field(init=False)  # of the version
    section: str = dataclasses.field(init=False)  # the split's name in the data set
    start: int = dataclasses.field(init=False)
    stop: int = dataclasses.field(init=False)
    files: tuple = dataclasses.field(
        init=False, repr=False
    )  # (name, end) of each shard

    def __post_init__(self):
        folder = pathlib.Path(self.folder).expanduser()
        place = folder if (folder / INFO).is_file() else versions(folder)[-1].parent
        form = json.loads((place / INFO).read_text()).get("fileFormat")
        if form != "array_record":
            raise ValueError(
                f"{place} holds {form} files; expected array_record, as tfds build writes "
                "with --file_format=array_record"
            )
        splits = builder(str(place)).info.splits
        held = [name for name in ("validation", "test") if name in splits]
        name = held[0] if held and self.split == "validation" else "train"
        if name not in splits:
            raise ValueError(f"{place} has no split {name}, but {', '.join(splits)}")
        count = splits[name].num_examples
        # What comes of one source must not sit in both.
        whole = held or "source" in builder(str(place)).info.features
        cut = count if whole or not self.split else held_from(count)
        start, stop = (
            (cut, count) if self.split == "validation" and not held else (0, cut)
        )
        if start == stop:
            raise ValueError(f"{place} has no records to be {self.split}")
        paths = [str(path) for path in splits[name].filepaths]
        if lost := [path for path in paths if not os.path.exists(path)]:
            raise ValueError(
                f"{place} lacks {len(lost)} of its files, such as {lost[0]}"
            )
        ends = itertools.accumulate(splits[name].shard_lengths)
        names = [os.path.basename(path) for path in paths]
        values = {"place": str(place), "section": name, "start": start, "stop": stop}
        values["files"] = tuple(zip(names, ends, strict=True))
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def __str__(self):
        return self.folder

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, index: int) -> dict:
        try:
            return opened(self.place, self.section)[self.start + index]
        except RuntimeError as error:  # a damaged block; its hash tells
            raise BadSample(f"cannot be read: {one_line(error)}") from None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of what an example holds."""
        return tuple(builder(self.place).info.features)

    def name(self, index: int) -> str:
        """The file of an example and its number there."""
        index += self.start
        ends = [end for _, end in self.files]
        k = bisect_right(ends, index)
        return f"{self.files[k][0]}[{index - (ends[k - 1] if k else 0)}]"


@functools.lru_cache
def builder(place: str):
    import tensorflow_datasets  # takes a second and a half

    return tensorflow_datasets.builder_from_directory(place)


@functools.lru_cache
def opened(place: str, name: str):
    """The split's examples; one reader per process."""
    steps = steps_of(builder(place).info.features)
    decoders = {"steps": as_stored(steps)} if steps else None
    return builder(place).as_data_source(name, decoders=decoders)


def steps_of(features):
    """The features of a step, where an example is an episode as RLDS has it."""
    steps = features["steps"] if "steps" in features else None
    return steps.feature if type(steps).__name__ == "Dataset" else None


def as_stored(kinds) -> dict:
    """What leaves the pictures of steps as the bytes of their files: few are looked at."""
    import tensorflow_datasets as tfds

    found = {}
    for name, kind in kinds.items():
        if hasattr(kind, "items"):
            found[name] = as_stored(kind)
        elif is_picture(kind):
            found[name] = tfds.decode.SkipDecoding()
    return found


def is_picture(kind) -> bool:
    of_colours = type(kind).__name__ == "Image" and kind.shape[-1] == 3
    return of_colours and kind.np_dtype == np.uint8
