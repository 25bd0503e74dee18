"""Writes files as torch.save does, without torch, from numpy arrays and plain values."""

import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


class Call(NamedTuple):
    """A call in the pickle: module and name of the function, and its arguments."""

    module: str
    name: str
    given: tuple


def save(path, value: Any) -> None:
    """Write a value; arrays become tensors, each with a storage of its own."""
    storages: list[np.ndarray] = []
    program = b"\x80\x02" + pickled(value, storages) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for i, x in enumerate(storages):
            archive.writestr(f"archive/data/{i}", x.tobytes())
        archive.writestr("archive/version", "3\n")


def pickled(value: Any, storages: list) -> bytes:
    """Instructions of pickle protocol 2 that push a value on the stack."""

    def all_of(values) -> bytes:
        return b"".join(pickled(x, storages) for x in values)

    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case dict():
            return b"}(" + all_of(x for pair in value.items() for x in pair) + b"u"
        case list():
            return b"](" + all_of(value) + b"e"
        case Call():
            name = f"c{value.module}\n{value.name}\n".encode()
            return name + all_of([value.given]) + b"R"
        case tuple():
            return b"(" + all_of(value) + b"t"
        case np.ndarray():
            return tensor(np.array(value, order="C"), storages)
    raise TypeError(type(value))


def tensor(x: np.ndarray, storages: list) -> bytes:
    """Instructions that rebuild a contiguous tensor on its storage."""
    storages.append(x)
    key, kind = str(len(storages) - 1), KINDS[x.dtype.name]
    storage = b"(" + pickled("storage", storages) + f"ctorch\n{kind}\n".encode()
    storage += pickled(key, storages) + pickled("cpu", storages)
    storage += pickled(x.size, storages) + b"tQ"
    strides = tuple(s // x.itemsize for s in x.strides)
    rest = (
        pickled(0, storages) + pickled(x.shape, storages) + pickled(strides, storages)
    )
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + hooks + b"tR"
