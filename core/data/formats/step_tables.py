"""Reads step tables of stable-worldmodel: one row per step, in one HDF5 file or a Lance table.

A row has pixels (or pixels_VIEW), the action taken after it, and any other numbers. The
action of an episode's last step was not taken and is NaN. In HDF5, `ep_len` and `ep_offset`
say where episodes are; in Lance, `episode_idx` is a column and pixels are JPEG files.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from core.base.places import expand_home
from core.base.text import one_line
from core.data.episodes.action_parts import real_part
from core.data.episodes.observed import read_observation
from core.data.episodes.step_names import check_distinct, log_name, observation_name
from core.data.episodes.steps import LazyImages, episode_flags
from core.data.formats.lazy_images import PNG
from core.data.records import BadSample, explain

HDF5, LANCE = (".h5", ".hdf5"), ".lance"
LENGTHS, OFFSETS = "ep_len", "ep_offset"  # of HDF5
EPISODE = "episode_idx"  # of Lance
INDEX = ("episode_idx", "ep_idx", "step_idx", LENGTHS, OFFSETS)
# Columns that a policy would see; all others become log/NAME, such as the whole state of the
# simulator, which is there for evaluation.
SEEN = ("pixels", "proprio", "observation")
ACTION, REWARD, ENDED = "action", "reward", "terminated"
REMEDY = "pip install -r requirements-tables.txt"
IMAGE_FILES = (b"\xff\xd8", PNG)  # how they begin
# Columns up to this size are read once and kept: files of single rows are slow to read.
KEPT = 2**26  # bytes


class Table(NamedTuple):
    """An open table. starts: of episodes, and the number of rows, [episodes + 1].

    pictures: the columns that are slow to read, and read when they are sliced.
    read: (column, slice of rows) -> arrays of these rows; bytes for JPEG.
    """

    columns: tuple[str, ...]
    pictures: frozenset[str]
    starts: np.ndarray
    read: Callable[[str, slice], Any]


def is_step_table(name: str) -> bool:
    """Whether a name is an HDF5 file, a Lance table, or a folder with one of them."""
    return find_table(name) is not None


def find_table(name: str) -> pathlib.Path | None:
    """The HDF5 file or the folder of the Lance table; None if there is none.

    Raises ValueError for a folder with several.
    """
    place = expand_home(name)
    if place.suffix in (*HDF5, LANCE) and place.exists():
        return place
    if not place.is_dir():
        return None
    found = sorted(p for p in place.iterdir() if p.suffix in (*HDF5, LANCE))
    if len(found) > 1:
        raise ValueError(
            f"{name} holds {len(found)} tables, such as {found[0].name} and {found[1].name}; "
            "name one of them"
        )
    return found[0] if found else None


@dataclasses.dataclass(frozen=True)
class StepTable:
    """The episodes of a table as recordings (core/data/episodes/trajectories.py).

    Raises ValueError for a table that is damaged or lacks actions or episodes.
    """

    place: str
    count: int = dataclasses.field(init=False)

    def __post_init__(self):
        table = open_table(self.place)
        if ACTION not in table.columns:
            raise ValueError(
                f"{self.place} has the columns {', '.join(table.columns)}; expected "
                f"{ACTION!r} among them"
            )
        object.__setattr__(self, "count", len(table.starts) - 1)

    def __str__(self):
        return self.place

    def __len__(self):
        return self.count

    @property
    def about(self):
        width = np.shape(open_table(self.place).read(ACTION, slice(1)))[1:]
        return {"action": [real_part(width or (1,))]}

    def name(self, index):
        return f"{self.place}: episode {index}"

    def load(self, index):
        """The steps of an episode; its last step has a zero action. Raises BadSample."""
        table = open_table(self.place)
        start, stop = (int(x) for x in table.starts[index : index + 2])
        rows, count, found, theirs = slice(start, stop), stop - start, {}, []
        if not count:
            raise BadSample("has no steps")
        for column in table.columns:
            if column in (ACTION, REWARD, ENDED):
                continue
            ours, x = self.column(table, column, rows)
            found[ours] = x
            theirs.append((column, ours))
        try:
            check_distinct(theirs)
        except ValueError as error:
            raise BadSample(str(error)) from None
        found[ACTION] = self.actions(table, rows)
        found[REWARD] = np.zeros(count, np.float32)
        if REWARD in table.columns:  # that of a row was received on reaching it
            rewards = np.array(table.read(REWARD, rows), np.float32)
            found[REWARD] = rewards.reshape(count, -1)[:, 0]
            found[REWARD][0] = np.nan_to_num(found[REWARD][0])
        ended = ENDED in table.columns and bool(
            np.ravel(table.read(ENDED, slice(stop - 1, stop)))[0]
        )
        return found | episode_flags(count, terminal=ended)

    def column(self, table, column: str, rows: slice):
        """(name, array [T, ...]) of a column; pictures are read when they are sliced."""
        seen = column.split("_")[0].split(".")[0] in SEEN
        name = observation_name(column) if seen else log_name(column)
        if column in table.pictures:
            reader = functools.partial(read_pixels, self.place, column, rows.start)
            return name, LazyImages(rows.stop - rows.start, reader)
        x = table.read(column, rows)
        if not seen or isinstance(x, list):
            return log_name(column), np.asarray(x)
        try:
            x, is_map = read_observation(x)
        except BadSample as error:
            raise BadSample(f"{column!r} {error}") from None
        return log_name(column) if is_map else name, x

    def actions(self, table, rows: slice) -> np.ndarray:
        """Actions float32 [T, A], zero at the last step if it is NaN there."""
        x = np.array(table.read(ACTION, rows), np.float32)
        x = x.reshape(rows.stop - rows.start, -1)
        if np.isnan(x[-1]).all():
            x[-1] = 0
        if not np.isfinite(x).all():
            at = int(np.argmin(np.isfinite(x).all(1)))
            raise BadSample(f"'action' is not finite at step {at} of {len(x)}")
        return x


def read_pixels(name: str, column: str, first: int, part: slice):
    """Pictures uint8 [n, H, W, 3] of some steps of an episode whose first row is `first`."""
    rows = slice(first + part.start, first + part.stop, part.step)
    x = open_table(name).read(column, rows)
    if isinstance(x, list):
        steps = range(part.start, part.stop, part.step)
        return np.stack(
            [decode(one, column, at) for one, at in zip(x, steps, strict=True)]
        )
    try:
        pictures, is_map = read_observation(np.asarray(x))
    except BadSample as error:
        raise BadSample(f"{column!r} {error}") from None
    channels = pictures.shape[3] if pictures.ndim == 4 else 0
    if is_map or pictures.dtype != np.uint8 or channels not in (1, 3):
        raise BadSample(
            f"{column!r} is {x.dtype} {x.shape[1:]}; expected pictures of uint8 in one or "
            "three channels"
        )
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3))


def decode(data: bytes, column: str, step: int) -> np.ndarray:
    """One encoded picture as RGB."""
    found = cv2.imdecode(np.frombuffer(data or b"", np.uint8), cv2.IMREAD_COLOR_RGB)
    if found is None:
        raise BadSample(f"{column!r} at step {step} is no picture that can be decoded")
    return found


@functools.lru_cache
def open_table(name: str) -> Table:
    """The table of a name, open for reading. Raises ValueError if it cannot be read."""
    place = find_table(name)
    assert place is not None, name
    try:
        return open_lance(place) if place.suffix == LANCE else open_hdf5(place)
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{place} cannot be read: {one_line(explain(error))}"
        ) from None


def open_hdf5(place: pathlib.Path) -> Table:
    """An HDF5 file. Columns that lie in other files are refused: they could be any file."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise ValueError(f"{place} needs h5py; use {REMEDY}") from None
    try:
        import hdf5plugin  # noqa: F401, compressions that HDF5 itself lacks
    except ModuleNotFoundError:
        pass
    file = h5py.File(place, "r")
    found = {}
    for key in file:
        link = file.get(key, getlink=True)
        inside = isinstance(link, h5py.HardLink)
        x = file[key] if inside else None
        if x is None or (isinstance(x, h5py.Dataset) and (x.external or x.is_virtual)):
            raise ValueError(
                f"{place}: {key!r} lies in another file, which is not read"
            )
        # A single number, such as of a version, is no column.
        if isinstance(x, h5py.Dataset) and x.shape and key not in INDEX:
            found[key] = x
    missing = [key for key in (LENGTHS, OFFSETS) if key not in file]
    if missing:
        raise ValueError(
            f"{place} has no {missing[0]!r}; expected a file of stable-worldmodel, or a folder "
            "in another format"
        )
    lengths, offsets = (np.asarray(file[key], np.int64) for key in (LENGTHS, OFFSETS))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if len(offsets) != len(lengths) or (starts[:-1] != offsets).any():
        raise ValueError(
            f"{place}: {OFFSETS} is not the sum of the lengths in {LENGTHS} before each episode"
        )
    check_rows(place, starts, {key: len(x) for key, x in found.items()})
    small = {key for key, x in found.items() if x.nbytes <= KEPT}
    pictures = {key for key, x in found.items() if is_pixels(key) or are_pictures(x)}

    @functools.cache
    def whole(column):
        return as_texts(found[column][:])

    def read(column, rows):
        if column in small:
            return whole(column)[rows]
        return as_texts(read_rows(found[column], rows))

    return Table(tuple(found), frozenset(pictures), starts, read)


def read_rows(x, rows: slice) -> np.ndarray:
    """Rows of a data set of HDF5, which takes longer to leave rows out than to read them."""
    step = rows.step or 1
    if step > 1 and x.chunks and x.chunks[0] <= step:
        return np.stack([x[at] for at in range(rows.start, rows.stop, step)])
    return x[rows.start : rows.stop][::step]


def as_texts(x):
    """Texts and bytes of HDF5 as a list of str, other arrays as they are."""
    if x.dtype.kind not in "OSU":
        return x
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in x])


def open_lance(place: pathlib.Path) -> Table:
    """A Lance table whose episodes lie one after another."""
    try:
        import lance
    except ModuleNotFoundError:
        raise ValueError(f"{place} needs pylance; use {REMEDY}") from None
    data = lance.dataset(str(place))
    names = data.schema.names
    if EPISODE not in names:
        raise ValueError(
            f"{place} has the columns {', '.join(names)}; expected {EPISODE!r} among them"
        )
    numbers = data.to_table(columns=[EPISODE])[EPISODE].to_numpy()
    change = np.flatnonzero(np.diff(numbers)) + 1
    if (np.diff(numbers) < 0).any():
        at = int(np.flatnonzero(np.diff(numbers) < 0)[0]) + 1
        raise ValueError(
            f"{place}: {EPISODE} falls from {numbers[at - 1]} to {numbers[at]} at row {at}; "
            "expected the rows of an episode one after another"
        )
    starts = np.concatenate([[0], change, [len(numbers)]]).astype(np.int64)
    columns = tuple(name for name in names if name not in INDEX)
    check_rows(place, starts, {})

    small = {f.name for f in data.schema if bytes_of(f.type) * starts[-1] <= KEPT}
    files = [f.name for f in data.schema if is_encoded(f.type)]
    first = data.to_table(columns=files, limit=1).to_pylist()[0]
    pictures = {x for x in names if is_pixels(x) or is_image_file(first.get(x))}

    @functools.cache
    def whole(column):
        return lance_values(data.to_table(columns=[column])[column].combine_chunks())

    def read(column, rows):
        if column in small:
            return whole(column)[rows]
        near = {"offset": rows.start, "limit": rows.stop - rows.start}
        part = data.to_table(columns=[column], **near)[column]
        return lance_values(part.combine_chunks())[:: rows.step]

    return Table(columns, frozenset(pictures), starts, read)


def is_pixels(column: str) -> bool:
    """Whether a column's name says that it has pictures."""
    return column.startswith("pixels")


def are_pictures(x) -> bool:
    """Whether a column of HDF5 looks like pictures: uint8 [T, H, W, 3]."""
    return x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] == 3


def is_image_file(x) -> bool:
    """Whether a value is the bytes of a JPEG or PNG file."""
    return isinstance(x, bytes) and x.startswith(IMAGE_FILES)


def is_encoded(kind) -> bool:
    """Whether values of an Arrow type are bytes of files."""
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def bytes_of(kind) -> float:
    """Bytes of a value of an Arrow type; infinite if they differ."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return kind.list_size * bytes_of(kind.value_type)
    return kind.bit_width / 8 if pa.types.is_primitive(kind) else float("inf")


def lance_values(x):
    """A column of Arrow: lists of numbers as [n, width], bytes and texts as lists."""
    import pyarrow as pa

    if isinstance(x, pa.ChunkedArray):
        x = pa.concat_arrays(x.chunks)
    if pa.types.is_fixed_size_list(x.type):
        return x.flatten().to_numpy(zero_copy_only=False).reshape(len(x), -1)
    if is_encoded(x.type):
        return x.to_pylist()
    if pa.types.is_string(x.type) or pa.types.is_large_string(x.type):
        return np.array(x.to_pylist())
    return x.to_numpy(zero_copy_only=False)


def check_rows(place, starts: np.ndarray, rows: dict[str, int]) -> None:
    """Raise ValueError for a table without episodes, or columns of other lengths."""
    if len(starts) < 2 or starts[-1] == 0:
        raise ValueError(f"{place} has no episodes")
    for column, count in rows.items():
        if count != starts[-1]:
            raise ValueError(
                f"{place}: {column!r} has {count} rows; its episodes have {starts[-1]} steps"
            )
