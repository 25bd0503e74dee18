"""The DreamerV3 agent as a Method: it acts, remembers, imagines and improves."""

import functools
import pathlib

from core.agents.benches import make_benches
from core.agents.collection import Online, make_policy, step_shapes
from core.agents.envs.make import make as make_env
from core.agents.envs.pool import Pool
from core.agents.episodes import make_episodes
from core.agents.replay import Replay, fill
from core.data.source_names import recordings
from core.method import Method
from core.planning import cem
from dreamer import behavior as behave
from dreamer.update import make_method


def make(config) -> Method:
    """Everything that a config of an agent means."""
    resolved, config = config.to_dict(), config.to_dict()
    if config["behavior"] == "none":
        raise ValueError("behavior is 'none', but an agent acts; use 'actor' or 'cem'")
    env = dict(config["env"])
    task = {name: env.pop(name) for name in ("task", "size", "repeat")}
    one = make_env(seed=config["seed"], **task)
    spaces, actions = dict(one.observations), dict(one.actions)
    one.close()

    make_pool = functools.partial(Pool, **task, **env)
    planner = config["planner"]
    shape = {name: config[name] for name in ("batch", "length", "seed")}

    def chooser(model, behavior, **changes):
        if behavior is not None:
            return behave.make_chooser(model, behavior)
        return cem.make_chooser(model, **planner | changes)

    def source(model, behavior):
        return functools.partial(
            make_online_source,
            model=model,
            choose=chooser(model, behavior),
            make_pool=make_pool,
            streams=env["count"],
            **shape,
            **config["replay"],
        )

    def episodes(model, behavior):
        choose = chooser(model, behavior, explore=0.0)
        make_few = functools.partial(Pool, **task, processes=False)
        seed = config["seed"]
        return make_episodes(model, choose, make_few, seed=seed, **config["episodes"])

    def benches(model, behavior):
        return make_benches(model, make_pool, streams=env["count"], **shape)

    pieces = {"source": source, "evals": {"episodes": episodes}, "benches": benches}
    return make_method(config, resolved, spaces, actions, **pieces, acts=True)


def make_online_source(
    split,
    shard,
    folder,
    *,
    model,
    choose,
    make_pool,
    streams,
    batch,
    length,
    seed,
    ratio,
    capacity,
    first_steps,
    source,
) -> Online:
    """Environments, replay in the run's folder, and the policy that joins them."""
    if shard[1] != 1:
        raise ValueError(f"an agent acts in one process, not in {shard[1]}; use one")
    shapes = step_shapes(model)
    replay = Replay(
        pathlib.Path(folder) / "replay",
        shapes,
        streams=streams,
        capacity=capacity,
        length=length,
    )
    policy = make_policy(model, choose, seed=seed)

    def begin():
        if source:
            fill(replay, recordings(source))

    shared = {"batch": batch, "ratio": ratio, "first_steps": first_steps, "seed": seed}
    return Online(make_pool, replay, policy, model, begin, **shared)
