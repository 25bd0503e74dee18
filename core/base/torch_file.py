"""Tensors in PyTorch's zip files (.pt, .pth.tar), read without executing their pickle.

A file of torch.save is a zip archive: NAME/data.pkl describes nested containers and
NAME/data/KEY holds the bytes of each storage. The pickle is parsed into instructions and
only those that build containers, numbers, strings and tensors are followed. Any other
class or function is refused by name; nothing is imported or called.
"""

import pathlib
import pickletools
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from core.base.files import os_error_text

# What zipfile raises for damaged archives.
DAMAGE = (
    zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError,
    zlib.error,
)  # fmt: skip
MAX_PROGRAM = 2**28  # bytes of data.pkl; a checkpoint of 2e9 parameters has 2e6

DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
ORDERED_DICT = "collections.OrderedDict"
SIZE = "torch.Size"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
KNOWN = (ORDERED_DICT, SIZE, TENSOR, PARAMETER, *(f"torch.{name}" for name in DTYPES))

LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
SILENT = ("PROTO", "FRAME", "STOP")
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Storage(NamedTuple):
    """A run of values in the archive: entry data/KEY."""

    key: str
    dtype: str
    length: int


class Tensor(NamedTuple):
    """A strided view of a storage; all counts are in values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Global(NamedTuple):
    """The name of a class or function in the pickle."""

    name: str


def is_torch_file(path) -> bool:
    """Whether a path is a file whose suffix is that of PyTorch checkpoints."""
    path = pathlib.Path(path)
    return path.is_file() and path.name.endswith((".pt", ".pth", ".tar", ".ckpt"))


def read_structure(path) -> Any:
    """The content of a file: dicts, lists, tuples, numbers, strings, and `Tensor`s.

    No values of tensors are read. Raises ValueError for files of another kind, damaged
    ones, and those that need another class than a tensor.
    """
    with opened(path) as archive:
        folder = folder_of(archive, path)
        order = f"{folder}/byteorder"
        if order in archive.namelist() and read_entry(archive, order) != b"little":
            raise ValueError(f"{path} was written by a big-endian machine; not read")
        if archive.getinfo(f"{folder}/data.pkl").file_size > MAX_PROGRAM:
            raise ValueError(f"{path}: data.pkl is larger than {MAX_PROGRAM} bytes")
        program = read_entry(archive, f"{folder}/data.pkl")
    try:
        return follow(program)
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: data.pkl is damaged: {error!r}") from None


def read_tensors(path, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Values of tensors of `read_structure`, by name; bfloat16 becomes float32.

    Raises ValueError, naming the tensor, where the file is damaged: the checksum of each
    storage is verified.
    """
    with opened(path) as archive:
        folder = folder_of(archive, path)
        return {
            name: read_tensor(archive, f"{folder}/data/", tensor, f"{path}: {name}")
            for name, tensor in tensors.items()
        }


def opened(path) -> zipfile.ZipFile:
    """The zip archive of a file; raises ValueError if it is none."""
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {os_error_text(error)}") from None
    except DAMAGE:
        raise ValueError(
            f"{path} is no zip archive: it is cut off, or written by PyTorch before 1.6; "
            "save it again with a newer torch.save"
        ) from None


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of an entry; raises ValueError if its checksum or header is wrong."""
    try:
        return archive.read(name)
    except KeyError:
        raise ValueError(f"{archive.filename} holds no {name}") from None
    except (OSError, *DAMAGE) as error:
        raise ValueError(f"{archive.filename} is damaged: {name}: {error}") from None


def folder_of(archive: zipfile.ZipFile, path) -> str:
    """The one folder of the archive that holds data.pkl."""
    found = [
        n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")
    ]
    if len(found) != 1:
        raise ValueError(f"{path} holds no data.pkl: it is no file of torch.save")
    return found[0].removesuffix("/data.pkl")


def read_tensor(archive, prefix: str, tensor: Tensor, where: str) -> np.ndarray:
    """The values of a tensor, a new array."""
    storage, bf16 = tensor.storage, tensor.storage.dtype == "bfloat16"
    dtype = np.dtype("<u2" if bf16 else storage.dtype)
    data = read_entry(archive, prefix + storage.key)
    if len(data) != storage.length * dtype.itemsize:
        raise ValueError(
            f"{where}: storage {storage.key} has {len(data)} bytes, expected "
            f"{storage.length * dtype.itemsize}"
        )
    last = tensor.offset + sum(
        (n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True)
    )
    empty = 0 in tensor.shape
    if min((tensor.offset, *tensor.shape, *tensor.stride)) < 0 or (
        not empty and last >= storage.length
    ):
        raise ValueError(f"{where}: {tensor} reaches beyond its storage")
    if empty:
        flat = np.zeros(tensor.shape, dtype)
    else:
        flat = np.lib.stride_tricks.as_strided(
            np.frombuffer(data, dtype)[tensor.offset :],
            tensor.shape,
            [s * dtype.itemsize for s in tensor.stride],
        ).copy()
    return (flat.astype(np.uint32) << 16).view(np.float32) if bf16 else flat


class Refused(Exception):
    """The pickle needs something that is not followed."""


def follow(program: bytes) -> Any:
    """The value that a pickle builds from containers, literals and tensors."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for instruction, value, _ in pickletools.genops(program):
        name = instruction.name
        if name in LITERALS:
            stack.append(value)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in SHORT_TUPLES:
            values = [stack.pop() for _ in range(SHORT_TUPLES[name])]
            stack.append(tuple(values[::-1]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name in ("SETITEM", "SETITEMS"):
            pairs = (
                since_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            )
            stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            values = since_mark() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(values)
        elif name == "GLOBAL":
            stack.append(known(value.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            end, start = stack.pop(), stack.pop()
            stack.append(known(f"{start}.{end}"))
        elif name == "BINPERSID":
            stack.append(storage_of(stack.pop()))
        elif name == "REDUCE":
            given = stack.pop()
            stack.append(build(stack.pop(), given))
        elif (
            name == "BUILD"
        ):  # attributes of a dict, such as the versions of its modules
            stack.pop()
            if not isinstance(stack[-1], dict):
                raise Refused(f"sets attributes of a {type(stack[-1]).__name__}")
        elif name not in SILENT:
            raise Refused(f"uses the pickle instruction {name}, which is not followed")
    (value,) = stack
    return value


def known(name: str) -> Global:
    """The marker of a class or function; raises Refused unless it belongs to a tensor."""
    if name not in KNOWN:
        raise Refused(
            f"needs {name}, which is no part of a tensor, and loading it could run any "
            "code; save the tensors alone"
        )
    return Global(name)


def storage_of(given) -> Storage:
    """The storage that a persistent id names: ("storage", class, key, device, length)."""
    kind, klass, key, _, length = given
    dtype = DTYPES.get(klass.name.removeprefix("torch."))
    if kind != "storage" or dtype is None or not isinstance(key, str):
        raise Refused(f"has an unknown kind of storage {given!r}")
    return Storage(key, dtype, int(length))


def build(what: Global, given: tuple) -> Any:
    """What a call in the pickle stands for: a dict, a size or a tensor."""
    if what.name == ORDERED_DICT:
        return dict(*given)
    if what.name == SIZE:
        return tuple(*given)
    if what.name == TENSOR:
        storage, offset, shape, stride = given[:4]
        if not isinstance(storage, Storage) or len(shape) != len(stride):
            raise Refused(f"has a tensor without a storage: {given!r}")
        return Tensor(
            storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride))
        )
    if what.name == PARAMETER and isinstance(given[0], Tensor):
        return given[0]
    raise Refused(f"calls {what.name}{given!r}")
