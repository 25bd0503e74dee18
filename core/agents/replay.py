"""Replay: rings of steps in memory, chunks of them on disk.

arXiv 2301.04104, "experience replay". All streams, one per environment, grow in step. A
window is one step of context and `length` steps to train on, from anywhere in a stream;
new windows are given out once before others are drawn. A method can keep named arrays
beside the steps, such as the recurrent states that a window continues from.
"""

import collections
import pathlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from core.agents.policy import Shapes
from core.base.files import write_json
from core.base.memory import lazy_zeros, memory_limit
from core.data.episodes.steps import mark_cuts
from core.data.formats.chunks import ABOUT, Chunk, chunks_in, read_chunk, write_chunk
from core.data.records import BadSample

CHUNK = 1024  # steps of a full file


class Replay:
    """Steps [streams, capacity / streams, ...] by name, the oldest overwritten first.

    Args:
      folder: of the files that `save` writes and `load` reads.
      shapes: of a step: observations, "action" (a vector), "reward" and the flags of
        core/data/episodes/steps.py.
      kept: of the arrays that the method keeps beside a step. Their files hold them as
        model/NAME, which other methods do not read.
      streams: environments.
      capacity: steps of all streams together.
      length: steps of a window that are trained on.
      about: what the data set of its files says of itself: `Recordings.about`.
      most_steps: that will be added, of all streams together; None if it is not known.

    Raises ValueError if the capacity is too small, if what will be added up to the
    capacity does not fit in memory, and if a name is taken.
    """

    def __init__(
        self,
        folder,
        shapes: Shapes,
        *,
        kept: Shapes,
        streams: int,
        capacity: int,
        length: int,
        about: Mapping = MappingProxyType({}),
        most_steps: int | None = None,
    ):
        self.folder = pathlib.Path(folder)
        self.length, self.streams, self.about = length, streams, dict(about)
        self.capacity = capacity // streams
        if self.capacity < 2 * (length + 1):
            raise ValueError(
                f"replay.capacity {capacity} gives {streams} environments "
                f"{self.capacity} steps each; use {2 * (length + 1) * streams} or more"
            )
        if taken := sorted(set(shapes) & set(kept)):
            raise ValueError(
                f"the method keeps {taken[0]!r} beside each step, but the environment "
                "has an array of that name"
            )
        self.kept, every = tuple(kept), {**shapes, **kept}
        steps = capacity if most_steps is None else min(capacity, most_steps)
        check_memory(steps, bytes_per_step(every))
        lead = (streams, self.capacity)
        try:
            self.steps = {
                name: lazy_zeros((*lead, *shape), dtype)
                for name, (shape, dtype) in every.items()
            }
            self.holes = np.zeros(lead, bool)  # steps that could not be read back
        except (OSError, OverflowError, MemoryError):  # more than can be addressed
            check_memory(capacity, bytes_per_step(every))
            raise
        self.holed = False  # whether there may be any
        self.added = 0  # steps of every stream since the run began
        self.fresh = collections.deque()  # (stream, start) not given out yet
        self.bad = []  # files that could not be read

    def __len__(self):
        """Steps in memory, of all streams."""
        return self.streams * min(self.added, self.capacity)

    @property
    def oldest(self) -> int:
        """Number of the oldest step in memory, the same for every stream."""
        return max(0, self.added - self.capacity)

    @property
    def windows(self) -> int:
        """Windows that can be drawn, from all streams."""
        if self.holed:
            return int(self.whole_windows().sum())
        return self.streams * max(0, self.added - self.oldest - self.length)

    def whole_windows(self) -> np.ndarray:
        """Whether the window from each start, `oldest` first, has no hole: bool [S, n]."""
        slots = np.arange(self.oldest, self.added) % self.capacity
        holes = np.cumsum(self.holes[:, slots], 1, dtype=np.int32)
        self.holed = bool(holes.any())
        holes = np.pad(holes, ((0, 0), (1, 0)))
        span = self.length + 1
        return holes[:, span:] == holes[:, :-span]

    def add(self, step: dict):
        """Add one step of every stream: arrays [streams, ...]."""
        slot = self.added % self.capacity
        for name, ring in self.steps.items():
            ring[:, slot] = step[name]
        self.holes[:, slot] = False
        self.added += 1
        span = self.length + 1
        if self.added % span == 0:
            self.fresh.extend((s, self.added - span) for s in range(self.streams))

    def draw_windows(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(stream, number of the context step) of windows [count, 2], new ones first.

        Raises ValueError if the steps that could be read back hold no window.
        """
        found = []
        while self.fresh and len(found) < count:
            stream, start = self.fresh.popleft()
            whole = not self.holes[stream, self.slots(start)].any()
            found += [(stream, start)] if start >= self.oldest and whole else []
        known = np.argwhere(self.whole_windows()) if self.holed else None
        if not (self.windows if known is None else len(known)):
            raise ValueError(
                f"the replay in {self.folder} has no {self.length + 1} steps in a row that "
                "could be read; delete it to begin a new one"
            )
        while len(found) < count:
            if known is not None:
                stream, after = map(int, known[rng.integers(len(known))])
                found.append((stream, self.oldest + after))
            else:
                stream = int(rng.integers(self.streams))
                start = int(rng.integers(self.oldest, self.added - self.length))
                found.append((stream, start))
        return np.array(found)

    def slots(self, start):
        """Slots of the rings that hold the steps of windows: [...] -> [..., length + 1]."""
        start = np.asarray(start)[..., None]
        return (start + np.arange(self.length + 1)) % self.capacity

    def read(self, windows: np.ndarray) -> dict:
        """Windows [B, 2] as a batch: steps [B, length, ...], kept arrays [B, ...].

        "action" is the one before each step. Kept arrays are those of the context step.
        """
        stream, slot = windows[:, :1], self.slots(windows[:, 1])
        inside = {
            name: ring[stream, slot[:, 1:]]
            for name, ring in self.steps.items()
            if name not in self.kept
        }
        inside["action"] = self.steps["action"][stream, slot[:, :-1]]
        inside["is_last"] = mark_cuts(inside["is_first"], inside["is_last"])
        context = {k: self.steps[k][stream[:, 0], slot[:, 0]] for k in self.kept}
        return inside | context

    def update_kept(self, windows: np.ndarray, kept: dict):
        """Overwrite kept arrays of windows [B, 2] by newer ones [B, length, ...].

        Steps that have left the rings since are skipped.
        """
        position = windows[:, 1:] + 1 + np.arange(self.length)
        row, column = np.nonzero(position >= self.added - self.capacity)
        stream = windows[row, 0]
        slot = position[row, column] % self.capacity
        for name in self.kept:
            self.steps[name][stream, slot] = kept[name][row, column]

    def save(self):
        """Write steps that are not on disk yet; delete files of steps that left the rings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.about:
            write_json(self.folder / ABOUT, self.about)
        before = chunks_in(self.folder)
        for stream in range(self.streams):
            mine = [(c.start, c.start + c.steps) for c in before if c.stream == stream]
            for begin, end in self.pieces(stream):
                if any(a <= begin and end <= b for a, b in mine):
                    continue
                slot = np.arange(begin, end) % self.capacity
                steps = {
                    self.on_disk(k): x[stream, slot] for k, x in self.steps.items()
                }
                write_chunk(self.folder, Chunk(stream, begin, end - begin), steps)
        self.delete_obsolete(before)

    def pieces(self, stream: int):
        """Yield (begin, end) of the steps for each file of a stream, without holes."""
        for start in range(self.oldest // CHUNK * CHUNK, self.added, CHUNK):
            begin, end = max(start, self.oldest), min(start + CHUNK, self.added)
            hole = self.holes[stream, np.arange(begin, end) % self.capacity]
            edges = np.flatnonzero(np.diff(hole, prepend=True, append=True))
            yield from (begin + edges.reshape(-1, 2)).tolist()

    def delete_obsolete(self, before: list[Chunk]):
        """Delete those of the files `before` whose steps left the rings or are elsewhere."""
        now, oldest = chunks_in(self.folder), self.added - self.capacity
        for chunk in before:
            begin, end = max(chunk.start, oldest), chunk.start + chunk.steps
            others = [c for c in now if c.stream == chunk.stream and c != chunk]
            twice = any(c.start <= begin and end <= c.start + c.steps for c in others)
            if begin >= end or twice:
                (self.folder / chunk.name).unlink(missing_ok=True)

    def load(self, added: int):
        """Read back what was saved when every stream had `added` steps.

        A file that cannot be read leaves holes, and an entry (name, reason) in `bad`.
        """
        self.added = added
        self.holes[:, np.arange(self.oldest, added) % self.capacity] = True
        for chunk in chunks_in(self.folder) if self.folder.is_dir() else []:
            end = min(chunk.start + chunk.steps, added)
            begin = max(chunk.start, self.oldest)
            if chunk.stream >= self.streams or end <= self.oldest:
                continue
            try:
                steps = read_chunk(self.folder, chunk)
                self.check(steps)
            except BadSample as error:
                name = str(self.folder / chunk.name)
                self.bad.append({"name": name, "reason": str(error)})
                continue
            if chunk.start + chunk.steps > added:
                self.truncate(chunk, steps)
            if begin >= end:
                continue
            slot = np.arange(begin, end) % self.capacity
            for name, ring in self.steps.items():
                now = slice(begin - chunk.start, end - chunk.start)
                ring[chunk.stream, slot] = steps[self.on_disk(name)][now]
            self.holes[chunk.stream, slot] = False
        self.holed = bool(self.holes.any())

    def truncate(self, chunk: Chunk, steps: dict):
        """Truncate a file to the checkpoint; later steps are collected again."""
        left = self.added - chunk.start
        if left > 0:
            short = {name: x[:left] for name, x in steps.items()}
            write_chunk(self.folder, Chunk(chunk.stream, chunk.start, left), short)
        (self.folder / chunk.name).unlink()

    def check(self, steps: dict):
        """Raise BadSample unless steps by their names on disk [T, ...] fit the rings."""
        for name, ring in self.steps.items():
            path = self.on_disk(name)
            shape = ring.shape[2:]
            if path not in steps or steps[path].shape[1:] != shape:
                found = steps[path].shape[1:] if path in steps else "absent"
                raise BadSample(f"{path!r} is {found}, not {shape}")
            if not np.can_cast(steps[path].dtype, ring.dtype, "same_kind"):
                raise BadSample(f"{path!r} is {steps[path].dtype}, not {ring.dtype}")

    def on_disk(self, name: str) -> str:
        """Name of a ring's array in files."""
        return f"model/{name}" if name in self.kept else name


def bytes_per_step(shapes: Shapes) -> int:
    """Memory of one step of one stream."""
    return sum(
        int(np.prod(shape)) * np.dtype(dtype).itemsize
        for shape, dtype in shapes.values()
    )


def check_memory(steps: int, each: int):
    """Raise ValueError if so many steps of `each` bytes do not fit in memory."""
    limit = memory_limit()
    if steps * each <= limit:
        return
    fit = int(0.8 * limit / each)
    fit -= fit % 10 ** max(0, len(str(fit)) - 2)  # two digits
    raise ValueError(
        f"the replay needs {steps * each / 1e9:.1f} GB of memory for {steps:,} steps of "
        f"{each:,} bytes, but this machine or its container has {limit / 1e9:.1f} GB; use "
        f"--config.replay.capacity={fit} or less"
    )
