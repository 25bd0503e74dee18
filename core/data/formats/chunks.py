"""Files of a replay: chunks of steps, and all windows of them.

A folder has one file STREAM-START-STEPS.npz per chunk, with arrays [STEPS, ...] by the names
of episodes/steps.py. A stream is the steps of one environment. about.json has the `about`
of core/data/episodes/trajectories.py; folders of earlier versions have none.
"""

import dataclasses
import functools
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from core.base.files import read_json
from core.base.places import expand_home
from core.base.text import one_line
from core.base.unreadable import known_damage
from core.data.episodes.steps import (
    NEEDED,
    as_training_window,
    check_steps,
    concat_steps,
    slice_steps,
)
from core.data.records import VALIDATION_ONE_IN, BadSample, blame

NAME = re.compile(r"(\d{6})-(\d{12})-(\d{6})\.npz")
ABOUT = "about.json"
KEPT_CHUNKS = 16  # decompressed chunks kept per process


@dataclasses.dataclass(frozen=True, order=True)
class Chunk:
    """The steps start..start + steps - 1 of a stream, in one file."""

    stream: int
    start: int
    steps: int

    @property
    def name(self) -> str:
        """The file name."""
        return f"{self.stream:06d}-{self.start:012d}-{self.steps:06d}.npz"


def chunks_in(folder) -> list[Chunk]:
    """The chunks of a folder in order; other files are ignored."""
    names = (NAME.fullmatch(path.name) for path in expand_home(folder).glob("*.npz"))
    return sorted(Chunk(*map(int, name.groups())) for name in names if name)


def about_chunks(folder) -> dict:
    """What a folder says of its arrays: `Recordings.about`."""
    path = expand_home(folder) / ABOUT
    return read_json(path) if path.is_file() else {}


def contiguous_runs(chunks) -> tuple:
    """Group ordered chunks into tuples in which each begins where the one before ends."""
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
    """Write the arrays [n, ...] of a chunk atomically."""
    path = pathlib.Path(folder) / chunk.name
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez_compressed(file, **steps)
    part.replace(path)


def read_chunk(folder, chunk: Chunk) -> dict:
    """The arrays of a chunk. Raises BadSample if the file is damaged or has other steps
    than its name says.
    """
    path = pathlib.Path(folder) / chunk.name
    try:
        with open(path, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            steps = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = known_damage(path) or f"cannot be read: {one_line(error)}"
        raise BadSample(reason) from None
    return check_steps(steps, chunk.steps)


@dataclasses.dataclass(frozen=True)
class ChunkFiles:
    """The chunks of a folder as recordings (core/data/episodes/trajectories.py), one per file.

    "is_first" is True at the first step of each.
    """

    folder: str
    chunks: tuple = dataclasses.field(init=False, repr=False)

    def __str__(self):
        return self.folder

    def __post_init__(self):
        object.__setattr__(self, "chunks", tuple(chunks_in(self.folder)))

    @property
    def about(self):
        return about_chunks(self.folder)

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
    """All windows of `length` steps in a folder of chunks, as records.

    Record i begins at the i-th step that has enough steps after it. Windows may span
    chunks and episodes, but no gap between chunks. split: "validation" has the last 1 / 20
    of the steps, `apart` at least; "train" the others; "" all. Raises ValueError if there
    is no window.
    """

    folder: str
    length: int
    split: str = ""
    apart: int = 0
    runs: tuple = dataclasses.field(init=False)  # tuples of contiguous chunks
    starts: tuple = dataclasses.field(init=False)  # first step to use in each run
    ends: tuple = dataclasses.field(init=False)  # records up to the end of each run

    def __post_init__(self):
        if not pathlib.Path(self.folder).is_dir():
            raise ValueError(f"{self.folder} is not a folder of trajectories")
        runs = contiguous_runs(chunks_in(self.folder))
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

    @property
    def about(self):
        return about_chunks(self.folder)

    def name(self, index):
        return f"{self.folder}/{self.locate(index)[0][0].name}"

    def locate(self, index):
        """(chunks that window `index` spans, its first step in the first of them)."""
        run = int(np.searchsorted(self.ends, index, side="right"))
        at = self.starts[run] + index - (self.ends[run - 1] if run else 0)
        spanned = []
        for chunk in self.runs[run]:
            first = chunk.start - self.runs[run][0].start
            if first < at + self.length and at < first + chunk.steps:
                spanned.append((chunk, max(0, at - first)))
        return [chunk for chunk, _ in spanned], spanned[0][1]

    def load(self, index, rng=None):
        """One window: arrays [length, ...] as in core/data/episodes/steps.py."""
        chunks, offset = self.locate(index)
        parts = []
        for chunk in chunks:
            with blame(f"{self.folder}/{chunk.name}"):
                parts.append(load_chunk(self.folder, chunk))
        steps = concat_steps(parts)
        return as_training_window(slice_steps(steps, offset, offset + self.length))


@functools.lru_cache(maxsize=KEPT_CHUNKS)
def load_chunk(folder, chunk):
    """`read_chunk`, cached."""
    return read_chunk(folder, chunk)
