"""Problems to plan for: a start and a goal, from recorded episodes or sampled states."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from core.data.records import BadSample
from core.planning.goals import Arrays, GoalWorld

TRIES = 200  # draws per problem before giving up


@dataclasses.dataclass(frozen=True)
class Problems:
    """P problems. starts, goals: states [P, ...] by name. actions: the recorded ones from
    start to goal [P, n, A]; None if the states were sampled. solved: share of the drawn
    problems whose start already counts as the goal. ids: what keys are made of, int [P].
    """

    starts: dict[str, np.ndarray]
    goals: dict[str, np.ndarray]
    actions: np.ndarray | None
    solved: float
    ids: np.ndarray

    def __len__(self):
        return len(self.ids)

    def take(self, rows) -> "Problems":
        """The problems with these row numbers."""
        part = functools.partial(pick, rows=rows)
        actions = None if self.actions is None else self.actions[rows]
        return dataclasses.replace(
            self,
            starts=part(self.starts),
            goals=part(self.goals),
            actions=actions,
            ids=self.ids[rows],
        )


def pick(arrays: Arrays, rows) -> dict[str, np.ndarray]:
    """Some rows of every array."""
    return {name: x[rows] for name, x in arrays.items()}


def recorded_problems(
    recordings: Any,
    world: GoalWorld,
    *,
    offset: int,
    count: int,
    seed: int,
    apart: float = 0.0,
    wanted: Callable[[Arrays, Arrays], np.ndarray] | None = None,
) -> Problems:
    """`count` problems whose goal is `offset` steps after the start in the same episode.

    Recording and start are uniform. Problems that are solved at the start are left out.

    Args:
      recordings: as core.data.episodes.trajectories.Recordings, held out from training.
      apart: least distance of start and goal, in the world's measure.
      wanted: (starts, goals) -> bool [n]: which problems are of interest; all by default.

    Raises ValueError if the recordings lack a state or actions, are too short, or if nearly
    all problems are solved or not wanted.
    """
    load = functools.lru_cache(64)(lambda i: read_states(recordings, world, i))

    def draw(rng):
        steps = load(int(rng.integers(len(recordings))))
        first = np.asarray(steps["is_first"], bool)
        starts = [
            t
            for t in range(len(first) - offset)
            if not first[t + 1 : t + offset + 1].any()
        ]
        if not starts:
            return None
        t = int(rng.choice(starts))
        begin, end = (
            {k: steps[k][i] for k in world.state_names} for i in (t, t + offset)
        )
        return begin, end, steps["action"][t : t + offset]

    hint = (
        f"no episode of {recordings} has {offset + 1} steps, which goals {offset} steps "
        "ahead need"
    )
    return collect(
        draw, world, count=count, seed=seed, apart=apart, wanted=wanted, hint=hint
    )


def load_recording(recordings: Any, index: int) -> dict:
    """A recording's steps. Raises ValueError if it cannot be read."""
    try:
        return recordings.load(index)
    except BadSample as error:
        raise ValueError(f"{recordings.name(index)} {error}") from None


def read_states(recordings: Any, world: GoalWorld, index: int) -> dict:
    """States, actions and is_first of a recording. Raises ValueError if they are missing."""
    steps = load_recording(recordings, index)
    for name in (*world.state_names, "action", "is_first"):
        if name not in steps:
            raise ValueError(
                f"{recordings.name(index)} has no {name!r}, which plans are evaluated with; "
                f"it has {', '.join(sorted(steps))}"
            )
    found = {
        k: np.asarray(steps[k]) for k in (*world.state_names, "action", "is_first")
    }
    for name, x in found.items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(f"{recordings.name(index)}: {name!r} is not finite")
    A = len(world.low)
    if found["action"].shape[1:] != (A,):
        raise ValueError(
            f"{recordings.name(index)} has actions of {found['action'].shape[1:]} numbers; "
            f"the world takes {A}"
        )
    return found


def sampled_problems(
    sample: Callable[[np.random.Generator], tuple[Mapping, Mapping]],
    world: GoalWorld,
    *,
    count: int,
    seed: int,
    apart: float = 0.0,
    wanted: Callable[[Arrays, Arrays], np.ndarray] | None = None,
) -> Problems:
    """`count` problems that `sample` draws: (state, goal state), arrays by name.

    The rest is as in `recorded_problems`; there are no recorded actions.
    """

    def draw(rng):
        return (*sample(rng), None)

    return collect(
        draw, world, count=count, seed=seed, apart=apart, wanted=wanted, hint=""
    )


def collect(
    draw, world: GoalWorld, *, count, seed, apart, wanted, hint: str
) -> Problems:
    """`count` wanted problems that are not solved at the start, in the order drawn."""
    rng, kept, tries, drawn, solved = np.random.default_rng(seed), [], 0, 0, 0
    while len(kept) < count:
        fresh = []
        while len(fresh) < count:
            if tries == TRIES * count:
                why = (
                    hint
                    if not drawn
                    else "nearly all are solved at the start, or unwanted"
                )
                raise ValueError(f"{len(kept)} of {count} problems were found: {why}")
            tries += 1
            if (one := draw(rng)) is not None:
                fresh.append(one)
        starts, goals = (stack([x[i] for x in fresh]) for i in (0, 1))
        world.reset(starts)
        fine = np.asarray(world.distance(goals)) >= apart
        if wanted is not None:
            fine &= wanted(starts, goals)
        reached = np.asarray(world.reached(goals), bool)
        drawn, solved = drawn + int(fine.sum()), solved + int((reached & fine).sum())
        kept += [fresh[i] for i in np.flatnonzero(fine & ~reached)]
    kept = kept[:count]
    starts, goals = (stack([x[i] for x in kept]) for i in (0, 1))
    actions = None if kept[0][2] is None else np.stack([x[2] for x in kept])
    ids = np.arange(count) + seed * 1_000_003
    return Problems(starts, goals, actions, solved / max(drawn, 1), ids)


def stack(states) -> dict[str, np.ndarray]:
    """States by name, one after another -> arrays [n, ...] by name."""
    return {name: np.stack([x[name] for x in states]) for name in states[0]}
