"""Trajectories on disk and from the embedded world, cut into windows of equal length.

A step holds observations by name, "action", a vector chosen after seeing them, "reward",
got on arriving there, and the flags is_first, is_last and is_terminal; "log/..." is not
trained on. A folder holds chunks of streams of steps, one .npz each:
STREAM-START-STEPS.npz. A window has "action" moved by one: what was done before each
observation, which is what a model is told.
"""

import dataclasses
import functools
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from core.data.records import BadSample
from core.data.world import World

NAME = re.compile(r"(\d{6})-(\d{12})-(\d{6})\.npz")
FLAGS = ("is_first", "is_last", "is_terminal")
NEEDED = ("action", "reward", *FLAGS)
KEPT_CHUNKS = 16  # decompressed, per process
HELD = 20  # one step of so many is held out


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
        raise BadSample(f"cannot be read: {' '.join(str(error).split())}") from None
    if missing := [name for name in NEEDED if name not in steps]:
        raise BadSample(f"has no {missing[0]!r}")
    for name, x in steps.items():
        if len(x) != chunk.steps:
            raise BadSample(f"{name!r} has {len(x)} steps, not {chunk.steps}")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise BadSample(f"{name!r} holds values that are not finite")
    return steps


@dataclasses.dataclass(frozen=True)
class Windows:
    """All windows of `length` steps of a folder's streams, as records of the pipeline.

    Record i begins at the i-th step that has enough steps after it. Windows may span
    chunks and episodes, never a gap between chunks. split: "train" leaves the last steps
    out, one in 20 and at least `apart`; "held" has those; empty: all.
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
        cut = steps.sum() - max(steps.sum() // HELD, self.apart)
        cuts = np.clip(cut - (np.cumsum(steps) - steps), 0, steps)  # within each run
        starts = cuts if self.split == "held" else 0 * cuts
        stops = cuts if self.split == "train" else steps
        counts = np.maximum(0, stops - starts - self.length + 1)
        for name, x in {"starts": starts, "ends": np.cumsum(counts)}.items():
            object.__setattr__(self, name, tuple(x.tolist()))
        object.__setattr__(self, "runs", runs)
        if not counts.sum():
            where = {"train": "before", "held": "among"}.get(self.split, "")
            where = f" {where} the last {steps.sum() - cut}" if where else ""
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
        return f"{self.folder}/{self.place(index)[0][0].name}"

    def place(self, index):
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
        chunks, offset = self.place(index)
        parts = [load_chunk(self.folder, chunk) for chunk in chunks]
        names = parts[0].keys()
        for chunk, part in zip(chunks, parts, strict=True):
            if part.keys() != names:
                raise BadSample(
                    f"{chunk.name} holds {sorted(part)}, not {sorted(names)}"
                )
        cut = slice(offset, offset + self.length)
        return shifted({k: np.concatenate([p[k] for p in parts])[cut] for k in names})


@functools.lru_cache(maxsize=KEPT_CHUNKS)
def load_chunk(folder, chunk):
    return read_chunk(folder, chunk)


def shifted(steps: dict) -> dict:
    """A window whose "action" is that before each step; its first step begins anew."""
    steps = dict(steps)
    action = np.asarray(steps["action"], np.float32)
    steps["action"] = np.concatenate([np.zeros_like(action[:1]), action[:-1]])
    steps["is_first"] = steps["is_first"].copy()
    steps["is_first"][0] = True
    return steps


@dataclasses.dataclass(frozen=True)
class WorldWindows:
    """Clips of the embedded world as trajectories: images, pushes, no reward.

    "log/position" [T, K, 2], where the bodies are, is there to judge by.
    """

    world: World

    def __len__(self):
        return len(self.world)

    def name(self, index):
        return self.world.name(index)

    def load(self, index, rng=None):
        item = self.world.load(index)
        T = len(item["video"])
        steps = {
            "image": item["video"],
            "action": item["action"],
            "reward": np.zeros(T, np.float32),
            "is_first": np.arange(T) == 0,
            "is_last": np.arange(T) == T - 1,
            "is_terminal": np.zeros(T, bool),
            "log/position": item["position"],
        }
        return shifted(steps)


def stack_windows(records, indices) -> dict:
    """Those of several windows that can be read, side by side: arrays [n, length, ...]."""
    items, why = [], "none was asked for"
    for index in map(int, indices):
        try:
            items.append(records.load(index))
        except BadSample as error:
            why = f"{records.name(index)} {error}"
    if not items:
        raise ValueError(f"no window of {records} can be read: {why}")
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
