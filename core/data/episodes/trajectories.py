"""Windows of recorded trajectories as records. core/data/episodes/steps.py has the schema."""

import dataclasses
from typing import Protocol

import numpy as np

from core.data.bodies.world import World
from core.data.episodes.steps import (
    as_training_window,
    check_steps,
    concat_steps,
    episode_flags,
    slice_steps,
    view_steps,
)
from core.data.records import (
    BadSample,
    Records,
    RecordsWrapper,
    blame,
    validation_start,
)


class Recordings(Protocol):
    """A data set of numbered recordings: whole episodes, or pieces of them in order.

    Picklable. about: {"names": {array: names of its numbers}, "units": {array: unit},
      "rate": steps per second, "action": parts of the action vector as in
      core/data/episodes/action_parts.py}, as far as known.
    """

    @property
    def about(self) -> dict: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> dict:
        """Arrays by name, [T, ...], as in core/data/episodes/steps.py. Raises BadSample."""
        ...

    def name(self, index: int) -> str:
        """The path or id by which a person finds the recording."""
        ...


@dataclasses.dataclass(frozen=True)
class RecordingRange:
    """Recordings start..stop - 1 of others."""

    recordings: Recordings
    start: int
    stop: int

    def __str__(self):
        return str(self.recordings)

    def __len__(self):
        return self.stop - self.start

    @property
    def inner(self):
        return self.recordings

    @property
    def about(self):
        return self.recordings.about

    def name(self, index):
        return self.recordings.name(self.start + index)

    def load(self, index):
        return self.recordings.load(self.start + index)


def split_recordings(recordings: Recordings, which: str) -> Recordings:
    """First 95% for "train", last 5% for "validation", all for "".

    Raises ValueError if a split is asked for and there is only one recording.
    """
    count = len(recordings)
    edge = validation_start(count)
    if not which:
        return recordings
    if edge == count:
        raise ValueError(
            f"{recordings} has one recording; expected two or more, to validate on one"
        )
    parts = {"train": (0, edge), "validation": (edge, count)}
    return RecordingRange(recordings, *parts[which])


@dataclasses.dataclass(frozen=True)
class RandomWindows(RecordsWrapper):
    """One window of `length` steps per recording, from a random start.

    A window that reaches beyond its recording continues in the next one; "is_first" marks
    where an episode begins.
    """

    inner: Recordings
    length: int

    @property
    def about(self):
        return self.inner.about

    def load(self, index, rng=None):
        """One window: arrays [length, ...] as in core/data/episodes/steps.py."""
        parts, left = [], self.length
        while left:
            with blame(self.inner.name(index)):
                steps = check_steps(self.inner.load(index))
                count = len(steps["action"])
                start = int(rng.integers(count)) if rng and not parts else 0
                parts.append(slice_steps(steps, start, start + left))
            left -= min(left, count - start)
            index = (index + 1) % len(self.inner)
        return as_training_window(concat_steps(parts))


@dataclasses.dataclass(frozen=True)
class EpisodeWindows(RecordsWrapper):
    """One window of `length` steps per recording, from a random start within an episode.

    Another recording is drawn in place of one whose episodes are all shorter. Images that
    the recording decodes when they are sliced are not decoded yet, since few are used of a
    window of many cameras, or of frames that are some steps apart.
    """

    inner: Recordings
    length: int
    tries: int = 64

    @property
    def about(self):
        return self.inner.about

    def load(self, index, rng=None):
        """One window: arrays [length, ...] as in core/data/episodes/steps.py.

        The middle one without rng. Raises BadSample if none of `tries` recordings is long
        enough.
        """
        other = rng or np.random.default_rng(index)
        for _ in range(self.tries):
            with blame(self.inner.name(index)):
                steps = self.inner.load(index)
                if "is_first" not in steps:
                    raise BadSample("has no 'is_first'")
                starts = starts_within(np.asarray(steps["is_first"]), self.length)
                if len(starts):
                    row = rng.integers(len(starts)) if rng else len(starts) // 2
                    start = int(starts[row])
                    name = self.inner.name(index)
                    window = view_steps(steps, start, start + self.length, name)
                    return as_training_window(check_steps(window))
            index = int(other.integers(len(self.inner)))
        raise BadSample(
            f"has no episode of {self.length} steps, and neither have "
            f"{self.tries - 1} other recordings"
        )


def starts_within(is_first, length: int) -> np.ndarray:
    """Numbers of the steps from which `length` steps lie in one episode, [n] rising."""
    begun = np.cumsum(np.asarray(is_first, bool))
    count = max(0, len(begun) - length + 1)
    return np.flatnonzero(begun[:count] == begun[length - 1 : length - 1 + count])


@dataclasses.dataclass(frozen=True)
class UncutWindows(RecordsWrapper):
    """Windows that lie in one episode: another one is drawn in place of one that does not."""

    inner: Records
    tries: int = 64

    @property
    def about(self):
        return self.inner.about

    def load(self, index, rng=None):
        """As `inner` does; raises BadSample if none of `tries` windows is uncut."""
        rng = rng or np.random.default_rng(index)
        for _ in range(self.tries):
            window = self.inner.load(index, rng)
            if not window["is_first"][1:].any():
                return window
            index = int(rng.integers(len(self.inner)))
        raise BadSample(
            f"none of {self.tries} windows of {len(window['is_first'])} steps lies in one "
            "episode"
        )


@dataclasses.dataclass(frozen=True)
class WorldWindows:
    """Clips of the embedded world as windows: "image", "action" (pushes), reward 0.

    "log/position" [T, K, 2] has the positions of the bodies, for evaluation.
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
            **episode_flags(T, terminal=False),
            "log/position": item["position"],
        }
        return as_training_window(steps)


def stack_windows(records, indices) -> dict:
    """Load several windows and stack them: arrays [n, length, ...].

    Windows that cannot be read are left out. The result is deterministic; equal indices
    give different windows of a record. Raises ValueError if none can be read.
    """
    items, reason = [], "no index was given"
    for seed, index in enumerate(map(int, indices)):
        try:
            items.append(records.load(index, np.random.default_rng(seed)))
        except BadSample as error:
            reason = f"{error.blamed or records.name(index)} {error}"
    if not items:
        raise ValueError(f"no window of {records} can be read: {reason}")
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
