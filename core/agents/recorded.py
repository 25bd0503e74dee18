"""Recordings that fill an empty replay."""

import itertools

import numpy as np

from core.agents.envs.env import parse_bounds
from core.agents.recorded_actions import parts_of, to_agent
from core.agents.replay import Replay
from core.agents.spaces import Spaces
from core.data.episodes.steps import check_steps
from core.data.records import BadSample


def fill(replay: Replay, recordings, actions: Spaces, *, action_bounds: str = ""):
    """Fill an empty replay from recordings (core/data/episodes/trajectories.py `Recordings`).

    Each stream takes recordings one after the other, until all are used or the rings are
    full. Actions are brought to the units of `actions`. Kept arrays are zeros. Recordings
    that do not fit are listed in `replay.bad`; raises ValueError if too few steps fit for
    one window, and if actions are of another kind or exceed their bounds.

    action_bounds: "LOW,HIGH" of recorded reals where the data set does not say them; empty
    for -1 and 1.
    """
    bounds = parse_bounds(action_bounds, "replay") if action_bounds else (-1.0, 1.0)
    indices = iter(range(len(recordings)))
    streams = [
        steps_of_recordings(replay, recordings, indices, actions, bounds)
        for _ in range(replay.streams)
    ]
    for steps in itertools.islice(zip(*streams, strict=False), replay.capacity):
        replay.add({name: np.stack([x[name] for x in steps]) for name in replay.steps})
    if not replay.windows:
        why = f": {replay.bad[0]['reason']}" if replay.bad else ""
        raise ValueError(
            f"{recordings} gives {replay.added} steps to each environment's replay; "
            f"expected {replay.length + 1} or more{why}"
        )


def steps_of_recordings(replay, recordings, indices, actions: Spaces, bounds):
    """Yields single steps {name: [...]} of the recordings with these indices."""
    for index in indices:
        try:
            steps = check_steps(recordings.load(index))
            given = {k: np.array(steps[k][:]) for k in replay.steps if k in steps}
            given["action"] = agent_actions(recordings, steps, actions, bounds)
            count = len(steps["action"])
            for name in replay.kept:
                ring = replay.steps[name]
                given[name] = np.zeros((count, *ring.shape[2:]), ring.dtype)
            replay.check({replay.on_disk(name): x for name, x in given.items()})
        except BadSample as error:
            replay.bad.append({"name": recordings.name(index), "reason": str(error)})
            continue
        except ValueError as error:
            raise ValueError(f"{recordings.name(index)}: {error}") from error
        given["is_first"][0] = True
        for t in range(count):
            yield {name: x[t] for name, x in given.items()}


def agent_actions(recordings, steps, actions: Spaces, bounds) -> np.ndarray:
    """The actions of a recording as the agent's vectors."""
    parts = recordings.about.get("action")
    # States of a model beside the steps: an agent chose the actions, in its own units.
    if parts is None and any(name.startswith("model/") for name in steps):
        parts = parts_of(actions)
    known = {"parts": parts, "actions": actions, "bounds": bounds}
    return to_agent(steps["action"], steps["is_last"], **known)
