"""What an agent has lived through: rings of steps in memory, and chunks of them on disk.

arXiv 2301.04104, "experience replay". All streams, one per environment, grow in step.
A window is one step of context and `length` steps to train on, from anywhere in a
stream; the newest are given out once before others are drawn. The states that the model
had are kept beside the steps: a window begins from the one of its context step.
"""

import collections
import itertools
import pathlib

import numpy as np

from core.data.formats.chunks import Chunk, chunks_in, read_chunk, write_chunk
from core.data.records import BadSample
from core.data.steps import check_steps

CHUNK = 1024  # steps of a full file
LATENT = ("deter", "stoch")


class Replay:
    """Steps [streams, capacity, ...] by name, the oldest overwritten first.

    shapes: {name: (shape, dtype)} of a step, "deter" and "stoch" among them.
    """

    def __init__(
        self, folder, shapes: dict, *, streams: int, capacity: int, length: int
    ):
        self.folder = pathlib.Path(folder)
        self.length, self.streams = length, streams
        self.capacity = capacity // streams
        if self.capacity < 2 * (length + 1):
            raise ValueError(
                f"replay.capacity {capacity} gives {streams} environments "
                f"{self.capacity} steps each; use {2 * (length + 1) * streams} or more"
            )
        lead = (streams, self.capacity)
        # Zeroed memory is taken from the system only as it is written to.
        self.steps = {k: np.zeros((*lead, *s), d) for k, (s, d) in shapes.items()}
        self.holes = np.zeros(lead, bool)  # steps that could not be read back
        self.added = 0  # steps of every stream, ever
        self.fresh = collections.deque()  # (stream, start) not given out yet
        self.bad = []  # files that could not be read

    def __len__(self):
        """Steps held in all."""
        return self.streams * min(self.added, self.capacity)

    @property
    def ready(self) -> bool:
        """Whether there is a window at all."""
        return self.added > self.length

    def add(self, step: dict):
        """One step of every stream: arrays [streams, ...]."""
        at = self.added % self.capacity
        for name, ring in self.steps.items():
            ring[:, at] = step[name]
        self.holes[:, at] = False
        self.added += 1
        span = self.length + 1
        if self.added % span == 0:
            self.fresh.extend((s, self.added - span) for s in range(self.streams))

    def draw(self, count: int, rng) -> np.ndarray:
        """(stream, start) of `count` windows [count, 2], the unseen ones first."""
        oldest = max(0, self.added - self.capacity)
        found = []
        while self.fresh and len(found) < count:
            stream, start = self.fresh.popleft()
            found += [(stream, start)] if start >= oldest else []
        for _ in range(1000 * count):
            if len(found) == count:
                return np.array(found)
            stream = int(rng.integers(self.streams))
            start = int(rng.integers(oldest, self.added - self.length))
            if not self.holes[stream, self.places(start)].any():
                found.append((stream, start))
        raise ValueError(
            f"no {self.length + 1} steps in a row of the replay in {self.folder} could "
            "be read; delete it to begin a new one"
        )

    def places(self, start):
        """Where the steps of windows lie in the rings: [...] -> [..., length + 1]."""
        start = np.asarray(start)[..., None]
        return (start + np.arange(self.length + 1)) % self.capacity

    def read(self, windows) -> dict:
        """Windows [B, 2] as a batch [B, length, ...]: "action" is that before each step."""
        stream, at = windows[:, :1], self.places(windows[:, 1])
        inside = {
            k: x[stream, at[:, 1:]] for k, x in self.steps.items() if k not in LATENT
        }
        inside["action"] = self.steps["action"][stream, at[:, :-1]]
        # An episode that the next one cut short ends where it was left.
        inside["is_last"][:, :-1] |= inside["is_first"][:, 1:]
        context = {k: self.steps[k][stream[:, 0], at[:, 0]] for k in LATENT}
        return inside | context

    def refresh(self, windows, latents: dict):
        """Put the model's newest states [B, length, ...] beside the steps of windows."""
        position = windows[:, 1:] + 1 + np.arange(self.length)
        row, column = np.nonzero(position >= self.added - self.capacity)
        stream = windows[row, 0]
        at = position[row, column] % self.capacity
        for name in LATENT:
            self.steps[name][stream, at] = latents[name][row, column]

    def save(self):
        """Write what is not on disk yet; delete what fell out of the rings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there, oldest = chunks_in(self.folder), max(0, self.added - self.capacity)
        for stream in range(self.streams):
            mine = [(c.start, c.start + c.steps) for c in there if c.stream == stream]
            for start in range(oldest // CHUNK * CHUNK, self.added, CHUNK):
                begin, end = max(start, oldest), min(start + CHUNK, self.added)
                at = np.arange(begin, end) % self.capacity
                known = any(a <= begin and end <= b for a, b in mine)
                if not known and not self.holes[stream, at].any():
                    steps = {on_disk(k): x[stream, at] for k, x in self.steps.items()}
                    write_chunk(self.folder, Chunk(stream, begin, end - begin), steps)
        self.tidy(there)

    def tidy(self, before):
        """Delete files whose steps have left the rings or stand in another file too."""
        now, oldest = chunks_in(self.folder), self.added - self.capacity
        for chunk in before:
            begin, end = max(chunk.start, oldest), chunk.start + chunk.steps
            others = [c for c in now if c.stream == chunk.stream and c != chunk]
            twice = any(c.start <= begin and end <= c.start + c.steps for c in others)
            if begin >= end or twice:
                (self.folder / chunk.name).unlink(missing_ok=True)

    def load(self, added: int):
        """Go on where `added` steps of every stream had been taken.

        A file that cannot be read leaves a hole and its name in `bad`; the rest stays.
        """
        self.added = added
        oldest = max(0, added - self.capacity)
        self.holes[:, np.arange(oldest, added) % self.capacity] = True
        for chunk in chunks_in(self.folder) if self.folder.is_dir() else []:
            end = min(chunk.start + chunk.steps, added)
            begin = max(chunk.start, oldest)
            if chunk.stream >= self.streams or end <= oldest:
                continue
            try:
                steps = read_chunk(self.folder, chunk)
                self.check(steps)
            except BadSample as error:
                name = str(self.folder / chunk.name)
                self.bad.append({"name": name, "reason": str(error)})
                continue
            if chunk.start + chunk.steps > added:
                self.shorten(chunk, steps)
            if begin >= end:
                continue
            at = np.arange(begin, end) % self.capacity
            for name, ring in self.steps.items():
                now = slice(begin - chunk.start, end - chunk.start)
                ring[chunk.stream, at] = steps[on_disk(name)][now]
            self.holes[chunk.stream, at] = False

    def shorten(self, chunk: Chunk, steps: dict):
        """Forget what was lived through after the checkpoint: it will come out otherwise."""
        left = self.added - chunk.start
        if left > 0:
            short = {k: x[:left] for k, x in steps.items()}
            write_chunk(self.folder, Chunk(chunk.stream, chunk.start, left), short)
        (self.folder / chunk.name).unlink()

    def check(self, steps: dict):
        for name, ring in self.steps.items():
            name = on_disk(name)
            if name not in steps or steps[name].shape[1:] != ring.shape[2:]:
                there = steps[name].shape[1:] if name in steps else "absent"
                raise BadSample(f"{name!r} is {there}, not {ring.shape[2:]}")


def on_disk(name: str) -> str:
    """What an array of the rings is called in a file."""
    return f"model/{name}" if name in LATENT else name


def fill(replay: Replay, recordings):
    """Begin with what others have lived through: each stream follows recordings to their
    end, one after the other, as long as there are any and the rings hold them.

    Those that do not fit are named in `bad`; ValueError if none does.
    """
    todo = iter(range(len(recordings)))
    streams = [follow(replay, recordings, todo) for _ in range(replay.streams)]
    for steps in itertools.islice(zip(*streams, strict=False), replay.capacity):
        replay.add({name: np.stack([x[name] for x in steps]) for name in replay.steps})
    if not replay.ready:
        why = f": {replay.bad[0]['reason']}" if replay.bad else ""
        raise ValueError(
            f"{recordings} gives {replay.added} steps to each environment's replay; "
            f"expected {replay.length + 1} or more{why}"
        )


def follow(replay, recordings, todo):
    """The steps of the recordings that `todo` numbers, as the rings hold them."""
    for index in todo:
        try:
            steps = check_steps(recordings.load(index))
            kept = {k: np.array(steps[k][:]) for k in replay.steps if k in steps}
            # Nobody knows yet what this model makes of them.
            kept |= {
                k: np.zeros((len(steps["action"]), *replay.steps[k].shape[2:]))
                for k in LATENT
            }
            replay.check({on_disk(k): x for k, x in kept.items()})
        except BadSample as error:
            replay.bad.append({"name": recordings.name(index), "reason": str(error)})
            continue
        kept["is_first"][0] = True
        for t in range(len(kept["action"])):
            yield {name: x[t] for name, x in kept.items()}
