"""Recordings that fill an empty replay."""

import itertools

import numpy as np

from core.agents.replay import Replay
from core.data.records import BadSample
from core.data.steps import check_steps


def fill(replay: Replay, recordings):
    """Fill an empty replay from recordings (core/data/trajectories.py `Recordings`).

    Each stream takes recordings one after the other, until all are used or the rings are
    full. Kept arrays are zeros. Recordings that do not fit are listed in `replay.bad`;
    raises ValueError if too few steps fit for one window.
    """
    indices = iter(range(len(recordings)))
    streams = [
        steps_of_recordings(replay, recordings, indices) for _ in range(replay.streams)
    ]
    for steps in itertools.islice(zip(*streams, strict=False), replay.capacity):
        replay.add({name: np.stack([x[name] for x in steps]) for name in replay.steps})
    if not replay.windows:
        why = f": {replay.bad[0]['reason']}" if replay.bad else ""
        raise ValueError(
            f"{recordings} gives {replay.added} steps to each environment's replay; "
            f"expected {replay.length + 1} or more{why}"
        )


def steps_of_recordings(replay: Replay, recordings, indices):
    """Yields single steps {name: [...]} of the recordings with these indices."""
    for index in indices:
        try:
            steps = check_steps(recordings.load(index))
            given = {k: np.array(steps[k][:]) for k in replay.steps if k in steps}
            count = len(steps["action"])
            for name in replay.kept:
                given[name] = np.zeros((count, *replay.steps[name].shape[2:]))
            replay.check({replay.on_disk(name): x for name, x in given.items()})
        except BadSample as error:
            replay.bad.append({"name": recordings.name(index), "reason": str(error)})
            continue
        given["is_first"][0] = True
        for t in range(count):
            yield {name: x[t] for name, x in given.items()}
