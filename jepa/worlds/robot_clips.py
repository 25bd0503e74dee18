"""Clips of V-JEPA 2-AC: frames of one or more cameras, the robot's states and its actions."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from core.data.episodes.pictures import resized
from core.data.loading.pipeline import make_source
from core.data.mixture import map_parts
from core.data.records import BadSample, Records, RecordsWrapper
from core.section import Section
from jepa.worlds.stored_features import check_stored, checked, features_in
from jepa.worlds.windows import PLACE, open_windows, picture_name


def concatenated(actions, states, skip: int):
    """Environment actions [T skip, A] -> blocks [T, skip A]."""
    return actions.reshape(-1, skip * actions.shape[1])


def summed(actions, states, skip: int):
    """Environment actions [T skip, A] -> their sums over each block, [T, A]."""
    return actions.reshape(-1, skip, actions.shape[1]).sum(1)


def pose_changes(actions, states, skip: int):
    """Changes of poses [T + 1, 7] from frame to frame, [T, 7], as in V-JEPA 2-AC.

    A pose is x, y, z, extrinsic Euler angles about x, y, z in radians, and the gripper. The
    change of orientation is that of R[t + 1] R[t]^T, in the same angles.
    """
    if states.shape[1] != 7:
        raise BadSample(
            f"has states of {states.shape[1]} numbers; data.action=pose needs 7: "
            "position, Euler angles, gripper"
        )
    turns = rotations(states[:, 3:6])
    angles = euler_angles(turns[1:] @ turns[:-1].swapaxes(1, 2))
    change = np.diff(states, axis=0)
    return np.concatenate([change[:, :3], angles, change[:, 6:]], 1)


def rotations(angles) -> np.ndarray:
    """Matrices [n, 3, 3] of extrinsic Euler angles [n, 3] about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz],
        [cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz],
        [-sy, sx * cy, cx * cy],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def euler_angles(matrices) -> np.ndarray:
    """The inverse of `rotations`, with the second angle in -pi / 2 .. pi / 2."""
    m = matrices
    return np.stack(
        [
            np.arctan2(m[:, 2, 1], m[:, 2, 2]),
            np.arcsin(np.clip(-m[:, 2, 0], -1, 1)),
            np.arctan2(m[:, 1, 0], m[:, 0, 0]),
        ],
        1,
    )


ACTIONS = {"concatenated": concatenated, "summed": summed, "pose": pose_changes}


def make_read(data: Section, *, seed: int, skip: int):
    """`make_clips` with all but split and frames, from the config's section `data`."""
    own = data.only("action", "images", "states")
    windows = data.without(*own).bind(open_windows, "split", "steps", seed=seed)
    return functools.partial(
        make_clips, windows=windows, skip=skip, size=data["size"], **own
    )


def make_clips(split, *, windows, frames, skip, size, action, images=(), states=()):
    """(records of clips, keywords of `make_source`).

    A clip is {"image": uint8 [frames, views, size, size, 3], "action": float32 [frames - 1,
    A], "state": float32 [frames, S]}, and "log/position" where the data has it. Where the
    data has features in place of pictures, "features", float16 [frames, views N, D], stand in
    place of "image".

    Args:
      split: "train" or "validation", which are different episodes.
      frames: of a clip, `skip` environment steps apart. size: pixels per side of pictures.
      action: what the actions between two frames are: a name in ACTIONS.
      images: names of the pictures of each view; none is the first by name.
      states: names of observations that make the state; none is a state of one 0.
      windows: (split, steps=) -> what `open_windows` returns.

    Raises ValueError for a source that is missing or holds no trajectories.
    """
    if action not in ACTIONS:
        raise ValueError(f"data.action is {action!r}; use one of {', '.join(ACTIONS)}")
    if frames < 3 or skip < 1:
        raise ValueError(
            f"clips have {frames} frames, {skip} steps apart; use 3 or more frames and a "
            "skip of 1 or more"
        )
    steps = (frames - 1) * skip + 1

    found, pipeline = windows(split, steps=steps)
    check_stored(found, size)
    cut = functools.partial(
        Clips,
        skip=skip,
        size=size,
        action=action,
        images=tuple(images) or ("",),
        states=tuple(states),
    )
    return map_parts(cut, found), pipeline


@dataclasses.dataclass(frozen=True)
class Clips(RecordsWrapper):
    """Windows as clips for `make_clips`."""

    inner: Records
    skip: int
    size: int
    action: str
    images: tuple[str, ...]
    states: tuple[str, ...]

    @property
    def about(self):
        return getattr(self.inner, "about", {})

    def load(self, index, rng=None):
        """A clip; raises BadSample for a window without what the clip needs."""
        window = self.inner.load(index, rng)
        seen = features_in(window, self.images, self.skip)
        if seen is None:
            views = [
                resized(window[picture_name(window, name)][:: self.skip], self.size)
                for name in self.images
            ]
            seen = {"image": np.stack(views, 1)}
        states = state_of(window, self.states)[:: self.skip]
        # The action of a window's step is the one before it.
        taken = np.asarray(window["action"], np.float32)[1:]
        action = ACTIONS[self.action](taken, states, self.skip)
        for name, x in (("action", action), ("state", states)):
            if not np.isfinite(x).all():
                raise BadSample(f"has {name} values that are not finite")
        more = {PLACE: window[PLACE][:: self.skip]} if PLACE in window else {}
        return {
            **seen,
            "action": action.astype(np.float32),
            "state": states.astype(np.float32),
            **more,
        }


def state_of(window, names: Sequence[str]) -> np.ndarray:
    """Observations of some names side by side: [T, S]; [T, 1] zeros without names.

    Raises BadSample if one is absent.
    """
    if missing := [name for name in names if name not in window]:
        raise BadSample(f"has no {missing[0]!r}, which data.states names")
    T = len(window["action"])
    if not names:
        return np.zeros((T, 1))
    parts = [np.asarray(window[name], np.float64).reshape(T, -1) for name in names]
    return np.concatenate(parts, 1)


@dataclasses.dataclass(frozen=True)
class Trained(RecordsWrapper):
    """Clips without what evaluations alone may see, of the widths of the predictor."""

    inner: Records
    action: int
    state: int

    def load(self, index, rng=None):
        """A clip without PLACE; raises BadSample for other widths."""
        item = self.inner.load(index, rng)
        for name, width in (("action", self.action), ("state", self.state)):
            if (found := item[name].shape[1]) != width:
                raise BadSample(f"has {name}s of {found} numbers, not {width}")
        return {name: x for name, x in item.items() if name != PLACE}


def make_clip_source(split, shard, folder=None, *, batch, widths, read):
    """core.method.Source of endless batches of clips; ignores `folder`.

    widths: numbers of an action and of a state. read: split -> what `make_clips` returns.
    """
    records, pipeline = read(split)
    action, state = widths
    trained = functools.partial(Trained, action=action, state=state)
    source = make_source(
        map_parts(trained, records), batch=batch, shard=shard, **pipeline
    )
    return checked(source, records)
