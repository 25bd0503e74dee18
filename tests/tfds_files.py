"""Data sets of tensorflow-datasets for tests, written without its builders."""

import gzip
import itertools
import json
import pathlib
import struct
import zlib

import numpy as np
import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordWriter

from core.data.files.crc32c import crc32c, masked

PACKED = {"": bytes, "gzip": gzip.compress, "zlib": zlib.compress}


def frame(data: bytes) -> bytes:
    """A record of TFRecord."""
    length = struct.pack("<Q", len(data))
    checks = (struct.pack("<I", masked(crc32c(x))) for x in (length, data))
    return length + next(checks) + data + next(checks)


def as_tfrecord(version, *, shards=1, pack="", suffix="") -> list[pathlib.Path]:
    """Replace the shards of a version's folder by TFRecord files; returns their paths.

    pack: a key of PACKED. suffix: after the names that dataset_info.json states.
    """
    version = pathlib.Path(version)
    raw = tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
    builder = tensorflow_datasets.builder_from_directory(str(version))
    info = json.loads((version / "dataset_info.json").read_text())
    info["fileFormat"], written = "tfrecord", []
    for split in info["splits"]:
        name = split["name"]
        examples = builder.as_data_source(name, deserialize_method=raw)
        records = [bytes(examples[i]) for i in range(len(examples))]
        edges = [len(records) * k // shards for k in range(shards + 1)]
        each = [records[a:b] for a, b in itertools.pairwise(edges)]
        split["shardLengths"] = [str(len(some)) for some in each]
        split.pop("filepathTemplate", None)
        for old in version.glob(f"*-{name}.array_record*"):
            old.unlink()
        for k, some in enumerate(each):
            file = f"{builder.name}-{name}.tfrecord-{k:05d}-of-{shards:05d}{suffix}"
            content = b"".join(map(frame, some))
            (version / file).write_bytes(PACKED[pack](content))
            written.append(version / file)
    (version / "dataset_info.json").write_text(json.dumps(info))
    return written


def stored_features(kinds):
    """Features as they are stored: images as bytes, which need no TensorFlow to write."""
    features = tensorflow_datasets.features
    if isinstance(kinds, dict):
        return {name: stored_features(kind) for name, kind in kinds.items()}
    is_image = isinstance(kinds, features.Image)
    return features.Scalar(np.object_) if is_image else kinds


def write_version(version, step, episodes, *, form="array_record", shards=1, pack=""):
    """Write a data set of RLDS to a version's folder NAME/VERSION; returns its path.

    step: features of a step. episodes: lists of steps; images are the bytes of files.
    form: "array_record" or "tfrecord", compressed as `pack` says.
    """
    features = tensorflow_datasets.features
    version = pathlib.Path(version)
    version.mkdir(parents=True)
    kinds = (step, stored_features(step))
    shown, stored = (
        features.FeaturesDict({"steps": features.Dataset(kind)}) for kind in kinds
    )
    shown.save_config(str(version))
    records = [stored.serialize_example({"steps": steps}) for steps in episodes]
    edges = [len(records) * k // shards for k in range(shards + 1)]
    for k, (start, stop) in enumerate(itertools.pairwise(edges)):
        name = f"{version.parent.name}-train.{form}-{k:05d}-of-{shards:05d}"
        if form == "tfrecord":
            content = b"".join(map(frame, records[start:stop]))
            (version / name).write_bytes(PACKED[pack](content))
        else:
            writer = ArrayRecordWriter(str(version / name), "group_size:1")
            for record in records[start:stop]:
                writer.write(record)
            writer.close()
    lengths = [str(b - a) for a, b in itertools.pairwise(edges)]
    split = {"name": "train", "shardLengths": lengths, "numBytes": "1"}
    info = {"name": version.parent.name, "version": version.name, "fileFormat": form}
    content = json.dumps(info | {"splits": [split]})
    (version / "dataset_info.json").write_text(content)
    return str(version)
