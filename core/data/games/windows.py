"""Clips of recorded games with what is known of their objects: position, velocity, bounce."""

import dataclasses

import numpy as np

from core.data.clips import View, make_crop
from core.data.episodes.cameras import is_images
from core.data.episodes.steps import check_steps, concat_steps, slice_steps
from core.data.episodes.trajectories import Recordings
from core.data.games.atari import POSITION, PRESENT

BALL = "Ball"  # the object whose bounces are labels
STILL = 0.5 / 160  # in sides of the picture; less than this is no movement


@dataclasses.dataclass(frozen=True)
class Windows:
    """All clips of some episodes, by row.

    images: per episode, uint8 [T, S, S, 3]. episode, start: of each clip, int [n]. ahead:
    frames of a clip, in steps from its start. rate: steps per second. targets: by name
    float32 [n, K], NaN where unknown. objects: their names.
    """

    images: list[np.ndarray]
    episode: np.ndarray
    start: np.ndarray
    ahead: np.ndarray
    rate: float
    targets: dict[str, np.ndarray]
    objects: tuple[str, ...]

    def __len__(self):
        return len(self.start)

    def video(self, rows) -> np.ndarray:
        """Clips uint8 [b, frames, S, S, 3]."""
        return np.stack(
            [self.images[self.episode[i]][self.start[i] + self.ahead] for i in rows]
        )

    def take(self, rows) -> "Windows":
        """Some of the clips."""
        targets = {name: y[rows] for name, y in self.targets.items()}
        where = {"episode": self.episode[rows], "start": self.start[rows]}
        return dataclasses.replace(self, targets=targets, **where)


def read_windows(
    recordings: Recordings, *, camera="", frames, fps, size, horizon_s
) -> Windows:
    """All clips of a split with their labels (see `label`).

    camera: of the recordings; the first image array if empty. frames, fps, size: of a clip.
    horizon_s: seconds after a clip in which a bounce is looked for. Raises ValueError if the
    recordings have no object positions or no episode is long enough.
    """
    rate, names = recordings.about.get("rate", 0), recordings.about.get("names", {})
    if not rate or POSITION not in names:
        raise ValueError(
            f"{recordings} has no {POSITION}; expected games that launch.prepare recorded "
            "--from=atari:GAME"
        )
    ahead = np.rint(np.arange(frames) * rate / fps).astype(int)
    horizon = round(horizon_s * rate)
    images, parts = [], []
    for steps in episodes_of(recordings):
        count = len(steps[PRESENT]) - ahead[-1] - horizon
        if count < 1:
            continue
        shown = camera or next(k for k, x in sorted(steps.items()) if is_images(x))
        crop = make_crop(View(size=size, kind="center"), None)(*steps[shown].shape[1:3])
        parts.append((len(images), label(steps, names[POSITION], ahead, horizon, rate)))
        images.append(np.stack([crop(x) for x in steps[shown]]))
    if not parts:
        raise ValueError(
            f"{recordings} has no episode of {ahead[-1] + horizon + 1} steps; lower "
            "data.frames or the horizon"
        )
    lengths = [len(next(iter(found.values()))) for _, found in parts]
    return Windows(
        images=images,
        episode=np.repeat([i for i, _ in parts], lengths),
        start=np.concatenate([np.arange(n) for n in lengths]),
        ahead=ahead,
        rate=rate,
        targets={k: np.concatenate([x[k] for _, x in parts]) for k in parts[0][1]},
        objects=tuple(names[POSITION]),
    )


def episodes_of(recordings: Recordings):
    """Yield whole episodes of recordings that are pieces in order."""
    pieces = []
    for index in range(len(recordings)):
        steps = check_steps(recordings.load(index))
        if steps["is_first"][0] and pieces:
            yield concat_steps(pieces)
            pieces = []
        pieces.append(slice_steps(steps, 0))
    yield concat_steps(pieces)


def label(steps, objects, ahead, horizon: int, rate: float) -> dict[str, np.ndarray]:
    """Targets of every clip of an episode that has `horizon` steps after it, [n, K] by name.

    position/OBJECT, at the last frame, in sides of the picture. velocity/OBJECT, of the step
    before it, in sides per second. bounce/time, seconds from the last frame to the ball's
    next change of direction, and bounce/place. NaN where the object is absent, or where the
    ball does not turn within the horizon.
    """
    place = np.where(steps[PRESENT][..., None], steps[POSITION], np.nan)
    moved = np.diff(place, axis=0, prepend=np.nan) * rate
    # A car that leaves on one side and comes back on the other does not move so far.
    moved = np.where(np.abs(moved).max(-1, keepdims=True) > rate / 2, np.nan, moved)
    last = np.arange(ahead[-1], len(place) - horizon)
    found = {}
    for k, name in enumerate(objects):
        found[f"position/{name}"] = place[last, k]
        found[f"velocity/{name}"] = moved[last, k]
    if BALL in objects:
        ball = place[:, objects.index(BALL)]
        turned = np.flatnonzero(turns(ball))
        turned = np.append(turned, len(ball) + horizon)  # never, after the last
        following = turned[np.searchsorted(turned, last)]
        late = following > last + horizon
        found["bounce/time"] = np.where(late, np.nan, (following - last) / rate)[
            :, None
        ]
        where = ball[np.where(late, 0, following)]
        found["bounce/place"] = np.where(late[:, None], np.nan, where)
    return {name: x.astype(np.float32) for name, x in found.items()}


def turns(place: np.ndarray) -> np.ndarray:
    """Whether a body changes its direction along an axis at each step: [T, 2] -> bool [T].

    A step without movement between two that differ is part of the turn, which is then where
    the body moves on.
    """
    turned, sign = np.zeros(len(place), bool), np.zeros(2)
    for t in range(1, len(place)):
        step = place[t] - place[t - 1]
        if np.isnan(step).any():
            sign = np.zeros(2)
            continue
        now = np.where(np.abs(step) > STILL, np.sign(step), sign)
        turned[t - 1] = (now * sign < 0).any()
        sign = now
    return turned
