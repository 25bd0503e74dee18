"""Brings an episode that tells its time to a steady number of steps a second."""

from collections.abc import Mapping

import numpy as np

from core.data.records import BadSample
from core.data.steps import Lazy, episode

ACTIONS = ("last", "sum", "mean")  # what several become that are taken as one
SLACK = 1e-3  # of a step of the clock: stamps may be rounded


def resampled(steps: Mapping, rate: float, actions: str) -> dict:
    """One episode, which tells its time, on a steady clock of `rate` steps a second.

    Observations are those nearest in time, rewards in between add up, and of the actions
    between two steps the last counts, or their sum or mean, as `actions` says: "last" for
    places to go to, "sum" for ways to go, "mean" for speeds.
    """
    if "time" not in steps:
        raise BadSample("tells no time; it cannot be brought to another rate")
    time = np.asarray(steps["time"], np.float64)
    grid = time[0] + np.arange(round((time[-1] - time[0]) * rate) + 1) / rate
    near = np.searchsorted((time[1:] + time[:-1]) / 2, grid - SLACK / rate)
    near[-1] = len(time) - 1  # how an episode ends is not rounded away
    found = {name: picked(x, near) for name, x in steps.items()}
    found["time"] = grid
    total = np.cumsum(steps["reward"], dtype=np.float64)[near]
    found["reward"] = np.diff(total, prepend=0.0).astype(np.float32)
    found["action"] = taken(np.asarray(steps["action"]), time, grid, near, actions)
    over = bool(np.asarray(steps["is_terminal"])[-1])
    return found | episode(len(grid), terminal=over)


def picked(x, at):
    """Items by number, which rises; of images not decoded yet, once they are asked for."""
    if not isinstance(x, Lazy):
        return np.asarray(x)[at]

    def decode(start, stop):
        which = at[start:stop]
        if not len(which):
            return x[0:0]
        return x[int(which[0]) : int(which[-1]) + 1][which - which[0]]

    return Lazy(len(at), decode)


def taken(action, time, grid, near, how: str) -> np.ndarray:
    """Actions [T, A] at `time` as one for each point of the grid, up to the next one.

    near: the number of the step that each point shows.
    """
    if how == "last":
        return action[np.maximum(np.append(near[1:], len(time)) - 1, near)]
    tick = np.diff(grid).mean() if len(grid) > 1 else 1.0
    end = max(
        grid[-1] + tick, time[-1] + (np.diff(time).mean() if len(time) > 1 else 0)
    )
    times, points = np.append(time, end), np.append(grid, end)
    weight = np.diff(times)[:, None] if how == "mean" else 1.0
    total = np.cumsum(
        np.append(np.zeros_like(action[:1]), action * weight, 0), 0, float
    )
    flow = [np.diff(np.interp(points, times, x)) for x in total.T]
    span = np.diff(points)[:, None] if how == "mean" else 1.0
    return (np.stack(flow, 1) / span).astype(np.float32)
