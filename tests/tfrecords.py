"""TFRecord files for tests: the shards of a data set in array_record, written again."""

import gzip
import itertools
import json
import pathlib
import struct
import zlib

import tensorflow_datasets

from core.data.crc32c import crc32c, masked

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
