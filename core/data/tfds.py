"""Finds and reads data sets of tensorflow-datasets, without TensorFlow.

Such a data set is a folder DATA_DIR/NAME[/CONFIG]/VERSION with a dataset_info.json, a
features.json and shards in array_record or TFRecord (core/data/files/tfrecord.py).
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from bisect import bisect_right

import numpy as np

from core.base.files import read_json
from core.base.names import nearest
from core.base.places import expand_home
from core.base.text import one_line
from core.base.unreadable import known_damage
from core.data.files.tfrecord import read_record
from core.data.records import BadSample, validation_start

INFO, FEATURES = "dataset_info.json", "features.json"
FORMATS = ("array_record", "tfrecord")
HOME = "~/tensorflow_datasets"  # the default of TFDS_DATA_DIR


def is_prepared(place) -> bool:
    """Whether a folder is a version of such a data set, or holds versions."""
    place = expand_home(place)
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

    Raises ValueError if files are missing, empty or pointers of git-LFS, have another format,
    or the split is empty.
    """

    folder: str
    split: str
    place: str = dataclasses.field(init=False)  # folder of the version
    section: str = dataclasses.field(init=False)  # name of the split on disk
    form: str = dataclasses.field(init=False)  # one of FORMATS
    start: int = dataclasses.field(init=False)
    stop: int = dataclasses.field(init=False)
    # (name, number of the example after its last one) of each shard
    files: tuple = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        folder = expand_home(self.folder)
        place = folder if (folder / INFO).is_file() else versions(folder)[-1].parent
        form = file_format(place)
        builder = open_builder(str(place))
        splits = builder.info.splits
        validation = self.split == "validation"
        apart = [name for name in ("validation", "test") if name in splits]
        name = apart[0] if apart and validation else "train"
        if name not in splits:
            raise ValueError(f"{place} has no split {name}; it has {', '.join(splits)}")
        count = splits[name].num_examples
        # Clips of one source must not be in both train and validation.
        whole = apart or "source" in builder.info.features
        edge = count if whole or not self.split else validation_start(count)
        start, stop = (edge, count) if validation and not apart else (0, edge)
        if start == stop:
            raise ValueError(f"{place} has no records in the split {self.split!r}")
        paths = [find_shard(path, form) for path in splits[name].filepaths]
        check_shards(place, paths)
        ends = itertools.accumulate(splits[name].shard_lengths)
        names = [path.name for path in paths]
        values = {"place": str(place), "section": name, "form": form}
        values |= {"start": start, "stop": stop}
        values["files"] = tuple(zip(names, ends, strict=True))
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def __str__(self):
        return self.folder

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, index: int) -> dict:
        """An example. Raises BadSample if its part of the file is damaged."""
        return open_decoder(self.place)(self.read(index))

    def read(self, index: int) -> bytes:
        """The record of an example. Raises BadSample."""
        k, number, count = self.locate(index)
        file = self.files[k][0]
        if self.form == "tfrecord":
            return read_record(os.path.join(self.place, file), number, expected=count)
        try:
            record = open_split(self.place, self.section)[self.start + index]
            reason = "it ends before this record"
        except (
            RuntimeError
        ) as error:  # no footer, or the hash of a block does not match
            record, reason = b"", one_line(error)
        if not record:  # as a cut file gives
            raise BadSample(
                f"{file} is cut or damaged, or its writer was not closed; download or copy "
                f"it again: {reason}"
            )
        return record

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features of an example."""
        return tuple(open_builder(self.place).info.features)

    def locate(self, index: int) -> tuple[int, int, int]:
        """(shard, number of an example in it, examples of the shard)."""
        index += self.start
        ends = [0, *(end for _, end in self.files)]
        k = bisect_right(ends, index) - 1
        return k, index - ends[k], ends[k + 1] - ends[k]

    def name(self, index: int) -> str:
        """The file of an example and its number in it, as "FILE[NUMBER]"."""
        k, number, _ = self.locate(index)
        return f"{self.files[k][0]}[{number}]"


def file_format(place) -> str:
    """The format of a version's shards. Raises ValueError if it cannot be read.

    A dataset_info.json that names none is older than the choice, and means TFRecord.
    """
    path = pathlib.Path(place) / INFO
    if damage := known_damage(path):
        raise ValueError(f"{path} {damage}")
    form = read_json(path).get("fileFormat", "tfrecord")
    if form not in FORMATS:
        raise ValueError(
            f"{place} has {form} files; expected {' or '.join(FORMATS)}, which tfds build "
            "writes with --file_format"
        )
    return form


def find_shard(path, form: str) -> pathlib.Path:
    """The path of a shard; of TFRecord also with .gz after its name."""
    path = pathlib.Path(path)
    packed = path.with_name(f"{path.name}.gz")
    return packed if form == "tfrecord" and not path.exists() else path


def check_shards(place, paths):
    """Raise ValueError for shards that are missing, empty, or pointers of git-LFS."""
    if missing := [path for path in paths if not path.exists()]:
        name = str(missing[0]).removesuffix(".gz")
        raise ValueError(
            f"{place} lacks {len(missing)} of its {len(paths)} files, such as {name}; "
            "download or copy them"
        )
    for path in paths:
        if damage := known_damage(path):
            raise ValueError(f"{path} {damage}")


@functools.lru_cache
def open_builder(place: str):
    """The cached builder of a version's folder. Raises ValueError."""
    import tensorflow_datasets  # takes 1.5 s

    path = pathlib.Path(place) / FEATURES
    if damage := known_damage(path):
        raise ValueError(f"{path} {damage}")
    read_json(path)  # raises ValueError, with the path, if it is cut
    with videos_as_images(tensorflow_datasets.features):
        return tensorflow_datasets.builder_from_directory(place)


@contextlib.contextmanager
def videos_as_images(features):
    """Context in which the feature Video is a sequence of encoded images, as on disk.

    The class itself needs TensorFlow, for its dtype alone.
    """

    def read(value):
        return features.Sequence(features.Scalar(np.object_))

    before = features.Video.from_json_content
    features.Video.from_json_content = staticmethod(read)
    try:
        yield
    finally:
        features.Video.from_json_content = before


@functools.lru_cache
def open_split(place: str, name: str):
    """The records of a split in array_record; cached, so that a process has one reader."""
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return open_builder(place).as_data_source(name, deserialize_method=raw)


@functools.lru_cache
def open_decoder(place: str):
    """The function from a record to an example; images of steps stay encoded."""
    features = open_builder(place).info.features
    steps = step_features(features)
    decoders = {"steps": keep_images_encoded(steps)} if steps else None
    return functools.partial(features.deserialize_example_np, decoders=decoders)


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
        elif is_image_feature(kind):
            found[name] = tfds.decode.SkipDecoding()
    return found


def is_image_feature(kind) -> bool:
    """Whether a feature is one image [H, W, C], stored as the bytes of a file."""
    return type(kind).__name__ == "Image"
