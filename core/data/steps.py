"""What a step of a trajectory holds, and the checks that all formats share.

NAME          an observation: an image, uint8 [H, W, 3], or numbers, float32
action        a vector, chosen after seeing the observations; one-hot where it is discrete
reward        got on arriving there
is_first, is_last, is_terminal    where episodes begin, stop, and are over for good
time          seconds since the recording began; where a format tells it
language      what the agent was told to do; where a format tells it
log/NAME      kept to judge by, never trained on
model/NAME    what the model that acted knew, which is of no use to another one

A recording is a dictionary of arrays [T, ...] by these names. Images may be anything that
has a length and gives an array for a slice, so that only those that are used are decoded.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from core.data.records import BadSample

FLAGS = ("is_first", "is_last", "is_terminal")
NEEDED = ("action", "reward", *FLAGS)
RESERVED = (*NEEDED, "time", "language")


def is_observation(name: str) -> bool:
    return name not in RESERVED and not name.startswith(("log/", "model/"))


@dataclasses.dataclass(frozen=True)
class Lazy:
    """`count` images that are decoded as they are sliced: decode(i, j) -> [j - i, H, W, 3]."""

    count: int
    decode: Callable

    def __len__(self):
        return self.count

    def __getitem__(self, cut: slice):
        start, stop, _ = cut.indices(self.count)
        return self.decode(start, stop)


def cut(steps: Mapping, start: int, stop: int | None = None) -> dict:
    """Some of a recording's steps, as arrays."""
    return {name: x[start:stop] for name, x in steps.items()}


def joined(parts: list[Mapping]) -> dict:
    """Steps that follow each other as one; BadSample if not all hold the same."""
    names = parts[0].keys()
    for part in parts[1:]:
        if part.keys() != names:
            raise BadSample(f"holds {sorted(names)}, what follows {sorted(part)}")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def check(steps: Mapping, count: int | None = None) -> dict:
    """The same steps; BadSample if something is absent, not finite or of another length."""
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
                raise BadSample(
                    f"{name!r} holds values that are not finite, at step {at}"
                )
    if "time" in steps:
        check_clock(np.asarray(steps["time"]), np.asarray(steps["is_first"]))
    return dict(steps)


def check_clock(time, is_first):
    """BadSample where time does not go on; an episode begins its own."""
    stuck = (np.diff(time) <= 0) & ~is_first[1:].astype(bool)
    if stuck.any():
        at = int(np.argmax(stuck)) + 1
        raise BadSample(
            f"time goes back at step {at}: {time[at]:.4f} s after {time[at - 1]:.4f} s"
        )


def episode(count: int, *, terminal: bool) -> dict:
    """The flags of one whole episode of `count` steps."""
    at = np.arange(count)
    over = (at == count - 1) & terminal
    return {"is_first": at == 0, "is_last": at == count - 1, "is_terminal": over}


def arrived(rewards) -> np.ndarray:
    """Rewards told with the step that earned them, told with the one that is reached.

    There is nothing to be earned by a last step; those who tell a success there mean it.
    """
    rewards = np.asarray(rewards, np.float32)
    late = np.concatenate([np.zeros_like(rewards[:1]), rewards[:-1]])
    late[-1] += rewards[-1]
    return late


def one_hot(classes, count: int) -> np.ndarray:
    """Whole numbers [T] below `count` as float32 [T, count]; BadSample beyond."""
    classes = np.asarray(classes).astype(int)
    if ((classes < 0) | (classes >= count)).any():
        raise BadSample(f"'action' is not always one of 0 to {count - 1}")
    return np.eye(count, dtype=np.float32)[classes]


def numbers(values) -> np.ndarray:
    """What a format tells as images, uint8 [T, H, W, 3], or else as float32 [T, n, ...]."""
    x = np.asarray(values)
    if x.dtype == np.uint8 and x.ndim == 4:
        return x
    if x.dtype.kind not in "biuf":
        raise BadSample(f"holds {x.dtype} where numbers are expected")
    return x.astype(np.float32).reshape(len(x), *(x.shape[1:] or (1,)))


def shifted(steps: Mapping) -> dict:
    """A window as a model is told it: "action" is what was done before each step, and
    its first step begins anew."""
    steps = dict(steps)
    action = np.asarray(steps["action"], np.float32)
    steps["action"] = np.concatenate([np.zeros_like(action[:1]), action[:-1]])
    steps["is_first"] = np.array(steps["is_first"], bool)
    steps["is_first"][0] = True
    return steps
