"""The schema of trajectories: names, types and checks that all formats share.

A recording is a dictionary of arrays of T steps:

NAME          observation: images uint8 [T, H, W, 3], or numbers float32 [T, ...]
action        float32 [T, A], chosen after step t was observed; one-hot if discrete
reward        float32 [T], received on reaching step t
is_first      bool [T], the step begins an episode
is_last       bool [T], the step ends an episode
is_terminal   bool [T], the episode ended for good: no reward follows, not just a time limit
time          float64 [T], seconds since the recording began; optional
language      str [T], the instruction to the agent; optional
features/NAME float16 [T, N, D] in place of the images NAME: of a frozen encoder
log/NAME      any array for evaluation, or depth in its own type; never trained on
model/NAME    states of the model that acted; useless to other models, not prepared

Observations may have any other name. Images may be LazyImages, which decode when sliced.
Windows for training have the same names, but "action" is the one before each step: see
`as_training_window`.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from core.data.records import BadSample, blame

FLAGS = ("is_first", "is_last", "is_terminal")
NEEDED = ("action", "reward", *FLAGS)
RESERVED = (*NEEDED, "time", "language")


def is_observation(name: str) -> bool:
    """Whether an array of this name is an observation."""
    return name not in RESERVED and not name.startswith(("log/", "model/"))


@dataclasses.dataclass(frozen=True)
class LazyImages:
    """Images that are decoded when sliced: x[i:j:k] calls decode(slice(i, j, k)).

    decode: a slice without None or negative numbers -> the images of its n steps,
      [n, H, W, 3].
    depth: whether they are maps of one number instead of RGB: [n, H, W, 1].
    """

    count: int
    decode: Callable
    depth: bool = False

    def __len__(self):
        return self.count

    def __getitem__(self, part: slice):
        if (part.step or 1) < 1:
            raise ValueError(
                f"images are sliced in steps of {part.step}; use 1 or more"
            )
        return self.decode(slice(*part.indices(self.count)))

    def between(self, start: int, stop: int, name: str) -> "LazyImages":
        """Those of steps start..stop - 1, not decoded. name: of the recording, for errors."""
        stop = min(stop, self.count)

        def decode(part):
            with blame(name):
                return self.decode(
                    slice(start + part.start, start + part.stop, part.step)
                )

        return LazyImages(stop - start, decode, self.depth)


def slice_steps(steps: Mapping, start: int, stop: int | None = None) -> dict:
    """Steps start..stop - 1 of a recording as arrays; decodes their images."""
    return {name: x[start:stop] for name, x in steps.items()}


def view_steps(steps: Mapping, start: int, stop: int, name: str) -> dict:
    """Like `slice_steps`, but images are decoded when the result's are sliced.

    name: of the recording, which is blamed for images that cannot be decoded then.
    """
    return {
        key: x.between(start, stop, name)
        if isinstance(x, LazyImages)
        else x[start:stop]
        for key, x in steps.items()
    }


def concat_steps(parts: list[Mapping]) -> dict:
    """Concatenate recordings in time. Raises BadSample if their names differ."""
    names = parts[0].keys()
    for part in parts[1:]:
        if part.keys() != names:
            raise BadSample(f"has {sorted(names)}, but the next one has {sorted(part)}")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def check_steps(steps: Mapping, count: int | None = None) -> dict:
    """Return the steps unchanged. Raises BadSample if a needed array is missing, an array
    has not `count` steps (those of "action" by default), a number is not finite, or time
    does not rise.
    """
    if missing := [name for name in NEEDED if name not in steps]:
        raise BadSample(f"has no {missing[0]!r}")
    count = len(steps["action"]) if count is None else count
    if not count:
        raise BadSample("has no steps")
    for name, x in steps.items():
        if len(x) != count:
            raise BadSample(f"{name!r} has {len(x)} steps, not {count}")
        if isinstance(x, np.ndarray) and x.dtype.kind == "f":
            if not (fine := np.isfinite(x)).all():
                at = int(np.argmin(fine.reshape(count, -1).all(1)))
                raise BadSample(f"{name!r} is not finite at step {at}")
    if "time" in steps:
        check_clock(np.asarray(steps["time"]), np.asarray(steps["is_first"]))
    return dict(steps)


def check_clock(time, is_first):
    """Raise BadSample if time does not rise within an episode."""
    stuck = (np.diff(time) <= 0) & ~is_first[1:].astype(bool)
    if stuck.any():
        at = int(np.argmax(stuck)) + 1
        raise BadSample(
            f"time does not rise at step {at}: {time[at]:.4f} s after "
            f"{time[at - 1]:.4f} s"
        )


def episode_flags(count: int, *, terminal: bool) -> dict:
    """is_first, is_last and is_terminal, bool [count], of one whole episode."""
    at = np.arange(count)
    over = (at == count - 1) & terminal
    return {"is_first": at == 0, "is_last": at == count - 1, "is_terminal": over}


def mark_cuts(is_first, is_last) -> np.ndarray:
    """is_last [..., T], also true at each step before a first one.

    An episode that was cut short, such as by a reset, ends where the next one begins; else
    returns would be summed across both.
    """
    is_last = np.array(is_last, bool)
    is_last[..., :-1] |= np.asarray(is_first, bool)[..., 1:]
    return is_last


def shift_rewards(rewards, is_last=False) -> np.ndarray:
    """Rewards [T] of the action at each step -> rewards on reaching each step.

    A reward at the last step of an episode, where some formats record success, stays there.
    is_last: bool [T] if there may be several episodes.
    """
    rewards = np.asarray(rewards, np.float32)
    stays = np.full(len(rewards), is_last)
    stays[-1:] = True
    late = np.where(stays, 0, rewards)
    return np.append(0, late[:-1]).astype(np.float32) + np.where(stays, rewards, 0)


def one_hot(classes, count: int) -> np.ndarray:
    """Integers [T] in 0..count - 1 -> float32 [T, count]. Raises BadSample on others."""
    classes = np.asarray(classes).astype(int)
    if ((classes < 0) | (classes >= count)).any():
        raise BadSample(f"'action' is not always an integer in 0 to {count - 1}")
    return np.eye(count, dtype=np.float32)[classes]


def image_or_float(values) -> np.ndarray:
    """Images uint8 [T, H, W, C] unchanged, other numbers as float32 [T, n, ...].

    Numbers [T] become [T, 1]. Raises BadSample on anything else.
    """
    x = np.asarray(values)
    if x.dtype == np.uint8 and x.ndim == 4:
        return x
    if x.dtype.kind not in "biuf":
        raise BadSample(f"has {x.dtype} values; expected numbers")
    return x.astype(np.float32).reshape(len(x), *(x.shape[1:] or (1,)))


def as_training_window(steps: Mapping) -> dict:
    """A window as models read it: "action" is the one before each step, zero at the first;
    "is_first" is True at the first step; "is_last" is as in `mark_cuts`.
    """
    steps = dict(steps)
    action = np.asarray(steps["action"], np.float32)
    steps["action"] = np.concatenate([np.zeros_like(action[:1]), action[:-1]])
    steps["is_first"] = np.array(steps["is_first"], bool)
    steps["is_first"][0] = True
    steps["is_last"] = mark_cuts(steps["is_first"], steps["is_last"])
    return steps
