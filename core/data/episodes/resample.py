"""Resamples an episode with time stamps to a constant rate in steps per second."""

from collections.abc import Mapping

import numpy as np

from core.data.episodes.steps import LazyImages, episode_flags
from core.data.records import BadSample

ACTIONS = ("last", "sum", "mean")  # how several actions become one
SLACK = 1e-3  # in steps of the new rate: time stamps may be rounded


def resample_episode(steps: Mapping, rate: float, actions: str) -> dict:
    """One episode at `rate` steps per second.

    Each new step has the observations that are nearest in time and the sum of the rewards
    since the step before. actions: "last" for target positions, "sum" for displacements,
    "mean" for velocities. Raises BadSample if the episode has no "time".
    """
    if "time" not in steps:
        raise BadSample("has no 'time'; it cannot be resampled")
    time = np.asarray(steps["time"], np.float64)
    grid = time[0] + np.arange(round((time[-1] - time[0]) * rate) + 1) / rate
    near = np.searchsorted((time[1:] + time[:-1]) / 2, grid - SLACK / rate)
    near[-1] = len(time) - 1  # the last step is always kept
    found = {name: select_steps(x, near) for name, x in steps.items()}
    found["time"] = grid
    total = np.cumsum(steps["reward"], dtype=np.float64)[near]
    found["reward"] = np.diff(total, prepend=0.0).astype(np.float32)
    found["action"] = combine_actions(
        np.asarray(steps["action"]), time, grid, near, actions
    )
    over = bool(np.asarray(steps["is_terminal"])[-1])
    return found | episode_flags(len(grid), terminal=over)


def select_steps(x, at):
    """The items at rising indices; images that are not decoded yet stay so."""
    if not isinstance(x, LazyImages):
        return np.asarray(x)[at]

    def decode(part):
        which = at[part]
        if not len(which):
            return x[0:0]
        return x[int(which[0]) : int(which[-1]) + 1][which - which[0]]

    return LazyImages(len(at), decode, x.depth)


def combine_actions(action, time, grid, near, how: str) -> np.ndarray:
    """One action for each point of the grid, up to the next point: [len(grid), A].

    action [T, A] and time [T] are those of the episode, in seconds; near [len(grid)] is the
    index of the step nearest to each point; how: one of ACTIONS.
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
