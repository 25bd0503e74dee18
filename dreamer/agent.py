"""DreamerV3 as an agent: a Method whose source acts in environments (arXiv 2301.04104)."""

import pathlib

import numpy as np

from core.agents.benches import make_benches
from core.agents.collection import Online
from core.agents.envs.make import make as make_env
from core.agents.envs.pool import Pool
from core.agents.episodes import make_episodes
from core.agents.policy import Policy, step_shapes
from core.agents.recorded import fill
from core.agents.recorded_actions import parts_of
from core.agents.replay import Replay
from core.agents.spaces import Spaces
from core.base.waiting import never
from core.data.source_names import recordings
from core.method import Method
from core.section import Section
from dreamer.behavior import make_actor_chooser
from dreamer.planner import make_planning_chooser
from dreamer.policy import make_policy
from dreamer.update import make_method, make_networks

# Fields of `env` that say what an environment is.
TASK = ("task", "size", "repeat", "action_bounds", "leave_out")


def make(config: Section) -> Method:
    """The Method of a config from configs/dreamer.py with environments.

    Raises ValueError for values that do not fit each other or the environment.
    """
    if config["behavior"] == "none":
        raise ValueError(
            "behavior is 'none', but an agent acts; use 'actor' or a planner such as 'cem'"
        )
    env = config["env"]
    task = env.only(*TASK)
    one = task.into(make_env, seed=config["seed"])
    observations, actions = dict(one.observations), dict(one.actions)
    one.close()
    model, behavior = make_networks(config, observations, actions)

    def policy(**changes):
        if behavior is not None:
            return make_policy(model, make_actor_chooser(model, behavior))
        planner = config["planner"].replace(**changes)
        chooser = planner.into(
            make_planning_chooser, model=model, kind=config["behavior"]
        )
        return make_policy(model, chooser)

    make_pool = env.bind(Pool, "seed")
    training = policy()
    spaces = {"spaces": model.spaces, "actions": model.actions}
    sizes = {name: config[name] for name in ("batch", "length", "seed")}
    return make_method(
        config,
        model,
        behavior,
        source=config["replay"].bind(
            make_online_source,
            "split",
            "shard",
            "folder",
            policy=training,
            make_pool=make_pool,
            streams=env["count"],
            updates=config["steps"],
            **spaces,
            **sizes,
        ),
        evals={
            "episodes": config["episodes"].into(
                make_episodes,
                policy=policy(explore=0.0),
                make_pool=task.bind(Pool, "count", "seed", processes=False),
                seed=config["seed"],
                **spaces,
            )
        },
        benches=make_benches(
            make_pool,
            actions=model.actions,
            shapes=step_shapes(**spaces),
            kept=training.kept_shapes,
            streams=env["count"],
            **sizes,
        ),
        acts=True,
    )


class Experience(Online):
    """Windows of the replay, each of which begins from the states kept with it."""

    def next(self, state=None, stopping=never):
        return super().next(state, stopping) | {"goes_on": np.zeros(self.batch, bool)}


def make_online_source(
    split,
    shard,
    folder,
    *,
    policy: Policy,
    make_pool,
    spaces: Spaces,
    actions: Spaces,
    streams: int,
    updates: int,
    batch: int,
    length: int,
    seed: int,
    ratio: float,
    capacity: int,
    first_steps: int,
    source: str,
    action_bounds: str,
) -> Experience:
    """Environments and their replay, in the folder of the run.

    updates: of the whole run. source: name of recordings (core/data/source_names.py) that
    fill a new replay, or "". action_bounds: as in `fill`. Raises ValueError if there is
    more than one process, and if the replay does not fit in memory or is too small.
    """
    if shard[1] != 1:
        raise ValueError(f"an agent acts in one process, not in {shard[1]}; use one")
    most = streams * (capacity // streams - length)
    if first_steps > most:
        raise ValueError(
            f"replay.first_steps is {first_steps}, but a replay.capacity of {capacity} has "
            f"{max(0, most)} windows; use a larger capacity or fewer first steps"
        )
    before = first_steps + streams * (length + 1)  # the first update
    taken = before + int(updates * batch * length / ratio) + streams
    replay = Replay(
        pathlib.Path(folder) / "replay",
        step_shapes(spaces, actions),
        kept=policy.kept_shapes,
        streams=streams,
        capacity=capacity,
        length=length,
        about={"action": parts_of(actions)},
        most_steps=None if source else taken,
    )

    def prefill():
        if source:
            fill(replay, recordings(source), actions, action_bounds=action_bounds)

    return Experience(
        make_pool,
        replay,
        policy,
        prefill,
        spaces=spaces,
        actions=actions,
        batch=batch,
        ratio=ratio,
        first_steps=first_steps,
        seed=seed,
    )
