"""Files of steps as a replay writes them, and all windows of them.

A folder holds chunks of streams of steps, one .npz each: STREAM-START-STEPS.npz, arrays
[STEPS, ...] by the names of core/data/steps.py.
"""

import dataclasses
import functools
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from core.base.text import one_line
from core.data.records import VALIDATION_ONE_IN, BadSample
from core.data.steps import (
    NEEDED,
    as_training_window,
    check_steps,
    concat_steps,
    slice_steps,
)

NAME = re.compile(r"(\d{6})-(\d{12})-(\d{6})\.npz")
KEPT_CHUNKS = 16  # decompressed, per process


@dataclasses.dataclass(frozen=True, order=True)
class Chunk:
    """Where a file's steps lie in its stream."""

    stream: int
    start: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.stream:06d}-{self.start:012d}-{self.steps:06d}.npz"


def chunks_in(folder) -> list[Chunk]:
    """The chunks of a folder in order; other files do not count."""
    names = (NAME.fullmatch(path.name) for path in pathlib.Path(folder).glob("*.npz"))
    return sorted(Chunk(*map(int, name.groups())) for name in names if name)


def without_gaps(chunks) -> tuple:
    """Chunks in order, as tuples of those that go on where the one before has ended."""
    runs = []
    for chunk in chunks:
        last = runs[-1][-1] if runs else None
        here = (chunk.stream, chunk.start)
        if last and (last.stream, last.start + last.steps) == here:
            runs[-1] += (chunk,)
        else:
            runs.append((chunk,))
    return tuple(runs)


def write_chunk(folder, chunk: Chunk, steps: Mapping):
    """Write the arrays [n, ...] of a chunk so that a file is there whole or not at all."""
    path = pathlib.Path(folder) / chunk.name
    half = path.with_suffix(".part")
    with open(half, "wb") as file:
        np.savez_compressed(file, **steps)
    half.replace(path)


def read_chunk(folder, chunk: Chunk) -> dict:
    """The arrays of a chunk; BadSample if the file is not what its name says."""
    try:
        with open(pathlib.Path(folder) / chunk.name, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            steps = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadSample(f"cannot be read: {one_line(error)}") from None
    return check_steps(steps, chunk.steps)


@dataclasses.dataclass(frozen=True)
class ChunkFiles:
    """The files of a folder as recordings, each of which begins anew."""

    folder: str
    chunks: tuple = dataclasses.field(init=False, repr=False)
    about = {}

    def __str__(self):
        return self.folder

    def __post_init__(self):
        object.__setattr__(self, "chunks", tuple(chunks_in(self.folder)))

    def __len__(self):
        return len(self.chunks)

    def name(self, index):
        return self.chunks[index].name

    def load(self, index):
        steps = read_chunk(self.folder, self.chunks[index])
        steps["is_first"][0] = True
        return steps


@dataclasses.dataclass(frozen=True)
class ChunkWindows:
    """All windows of `length` steps of a folder's streams, as records of the pipeline.

    Record i begins at the i-th step that has enough steps after it. Windows may span
    chunks and episodes, never a gap between chunks. split: "train" leaves the last steps
    out, one in 20 and at least `apart`; "validation" has those; empty: all.
    """

    folder: str
    length: int
    split: str = ""
    apart: int = 0
    runs: tuple = dataclasses.field(init=False)  # of chunks without a gap
    starts: tuple = dataclasses.field(init=False)  # the first step to use of each run
    ends: tuple = dataclasses.field(init=False)  # records up to the end of each run

    def __post_init__(self):
        if not pathlib.Path(self.folder).is_dir():
            raise ValueError(f"{self.folder} is no folder of trajectories")
        runs = without_gaps(chunks_in(self.folder))
        steps = np.array([sum(c.steps for c in run) for run in runs], int)
        edge = steps.sum() - max(steps.sum() // VALIDATION_ONE_IN, self.apart)
        cuts = np.clip(edge - (np.cumsum(steps) - steps), 0, steps)  # within each run
        starts = cuts if self.split == "validation" else 0 * cuts
        stops = cuts if self.split == "train" else steps
        counts = np.maximum(0, stops - starts - self.length + 1)
        for name, x in {"starts": starts, "ends": np.cumsum(counts)}.items():
            object.__setattr__(self, name, tuple(x.tolist()))
        object.__setattr__(self, "runs", runs)
        if not counts.sum():
            where = {"train": "before", "validation": "among"}.get(self.split, "")
            where = f" {where} the last {steps.sum() - edge}" if where else ""
            raise ValueError(
                f"{self.folder} has no {self.length} steps in a row{where}; expected "
                f"files {Chunk(0, 0, 1024).name} with the arrays {', '.join(NEEDED)} and "
                "observations"
            )

    def __len__(self):
        return self.ends[-1]

    def __str__(self):
        return f"the trajectories of {self.folder}"

    def name(self, index):
        return f"{self.folder}/{self.locate(index)[0][0].name}"

    def locate(self, index):
        """(the chunks that window `index` touches, its offset in the first)."""
        run = int(np.searchsorted(self.ends, index, side="right"))
        at = self.starts[run] + index - (self.ends[run - 1] if run else 0)
        touched = []
        for chunk in self.runs[run]:
            begin = chunk.start - self.runs[run][0].start
            if begin < at + self.length and at < begin + chunk.steps:
                touched.append((chunk, max(0, at - begin)))
        return [chunk for chunk, _ in touched], touched[0][1]

    def load(self, index, rng=None):
        """One window: every array [length, ...]."""
        chunks, offset = self.locate(index)
        parts = [load_chunk(self.folder, chunk) for chunk in chunks]
        steps = concat_steps(parts)
        return as_training_window(slice_steps(steps, offset, offset + self.length))


@functools.lru_cache(maxsize=KEPT_CHUNKS)
def load_chunk(folder, chunk):
    return read_chunk(folder, chunk)
