"""Finds and reads data sets of tensorflow-datasets, without TensorFlow.

Such a data set is a folder DATA_DIR/NAME[/CONFIG]/VERSION with array_record shards and a
dataset_info.json.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
from bisect import bisect_right

import numpy as np

from core.base.names import nearest
from core.base.places import expand_home
from core.base.text import one_line
from core.data.records import BadSample, validation_start

INFO = "dataset_info.json"
HOME = "~/tensorflow_datasets"  # the default of TFDS_DATA_DIR


def is_prepared(place) -> bool:
    """Whether a folder is a version of such a data set, or holds versions."""
    place = pathlib.Path(place).expanduser()
    return (place / INFO).is_file() or any(place.glob(f"*/{INFO}"))


def find_dataset(name: str) -> pathlib.Path:
    """The folder of NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION in TFDS_DATA_DIR.

    Raises ValueError, naming similar data sets, if there is none.
    """
    home = expand_home(os.environ.get("TFDS_DATA_DIR", HOME))
    name, _, version = name.partition(":")
    folder = home / name / version if version else home / name
    if is_prepared(folder):
        return folder
    if version and is_prepared(home / name):
        there = ", ".join(path.parent.name for path in versions(home / name))
        raise ValueError(
            f"tfds:{name} has no version {version}; there are the versions {there}"
        )
    known = sorted(
        str(path.parent.parent.relative_to(home))
        for depth in ("*/*", "*/*/*")
        for path in home.glob(f"{depth}/{INFO}")
    )
    there = f"there are {', '.join(known[:8])}" if known else "it is empty"
    hint = nearest(name, known)
    raise ValueError(f"no data set {name} in TFDS_DATA_DIR {home}{hint}; {there}")


def versions(folder) -> list[pathlib.Path]:
    """The dataset_info.json of each version in a folder, the newest last."""

    def number(path):
        return [int(x) if x.isdigit() else -1 for x in path.parent.name.split(".")]

    return sorted(pathlib.Path(folder).glob(f"*/{INFO}"), key=number)


@dataclasses.dataclass(frozen=True)
class Shards:
    """Examples of a split by number. Picklable; each process opens its own reader.

    folder: a version of the data set, or the folder of its versions: the newest is read.
    split: "train"; "validation", which is the validation split, else the test split, else
      the last 1 / 20 of train, which "train" then leaves out; or "" for all of train. Train
      is not cut if its examples have a "source", which must not be in both.

    Raises ValueError if files are missing, are not array_record, or the split is empty.
    """

    folder: str
    split: str
    place: str = dataclasses.field(init=False)  # folder of the version
    section: str = dataclasses.field(init=False)  # name of the split on disk
    start: int = dataclasses.field(init=False)
    stop: int = dataclasses.field(init=False)
    # (name, number of the example after its last one) of each shard
    files: tuple = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        folder = pathlib.Path(self.folder).expanduser()
        place = folder if (folder / INFO).is_file() else versions(folder)[-1].parent
        form = json.loads((place / INFO).read_text()).get("fileFormat")
        if form != "array_record":
            raise ValueError(
                f"{place} has {form} files; expected array_record, which tfds build writes "
                "with --file_format=array_record"
            )
        splits = open_builder(str(place)).info.splits
        validation = self.split == "validation"
        apart = [name for name in ("validation", "test") if name in splits]
        name = apart[0] if apart and validation else "train"
        if name not in splits:
            raise ValueError(f"{place} has no split {name}; it has {', '.join(splits)}")
        count = splits[name].num_examples
        # Clips of one source must not be in both train and validation.
        whole = apart or "source" in open_builder(str(place)).info.features
        edge = count if whole or not self.split else validation_start(count)
        start, stop = (edge, count) if validation and not apart else (0, edge)
        if start == stop:
            raise ValueError(f"{place} has no records in the split {self.split!r}")
        paths = [str(path) for path in splits[name].filepaths]
        if missing := [path for path in paths if not os.path.exists(path)]:
            raise ValueError(
                f"{place} lacks {len(missing)} of its files, such as {missing[0]}"
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
        """An example. Raises BadSample if its part of the file is damaged."""
        try:
            return open_split(self.place, self.section)[self.start + index]
        except RuntimeError as error:  # the hash of a block does not match
            raise BadSample(f"cannot be read: {one_line(error)}") from None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features of an example."""
        return tuple(open_builder(self.place).info.features)

    def name(self, index: int) -> str:
        """The file of an example and its number in it, as "FILE[NUMBER]"."""
        index += self.start
        ends = [end for _, end in self.files]
        k = bisect_right(ends, index)
        return f"{self.files[k][0]}[{index - (ends[k - 1] if k else 0)}]"


@functools.lru_cache
def open_builder(place: str):
    """The cached builder of a version's folder."""
    import tensorflow_datasets  # takes 1.5 s

    return tensorflow_datasets.builder_from_directory(place)


@functools.lru_cache
def open_split(place: str, name: str):
    """The examples of a split; cached, so that a process has one reader."""
    steps = step_features(open_builder(place).info.features)
    decoders = {"steps": keep_images_encoded(steps)} if steps else None
    return open_builder(place).as_data_source(name, decoders=decoders)


def step_features(features):
    """The features of a step if an example is an episode in RLDS, else None."""
    steps = features["steps"] if "steps" in features else None
    return steps.feature if type(steps).__name__ == "Dataset" else None


def keep_images_encoded(kinds) -> dict:
    """Decoders that leave images of steps as bytes of files: only few are ever decoded."""
    import tensorflow_datasets as tfds

    found = {}
    for name, kind in kinds.items():
        if hasattr(kind, "items"):
            found[name] = keep_images_encoded(kind)
        elif is_rgb_feature(kind):
            found[name] = tfds.decode.SkipDecoding()
    return found


def is_rgb_feature(kind) -> bool:
    """Whether a feature is an image uint8 [H, W, 3]."""
    is_rgb = type(kind).__name__ == "Image" and kind.shape[-1] == 3
    return is_rgb and kind.np_dtype == np.uint8
