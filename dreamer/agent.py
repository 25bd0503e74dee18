"""The DreamerV3 agent as a Method: it acts, remembers, imagines and improves."""

import functools
import pathlib

from core.method import Method
from dreamer import behavior as behave
from dreamer import cem
from dreamer.bench import make_benches
from dreamer.envs.make import make as make_env
from dreamer.envs.pool import Pool
from dreamer.episodes import make_episodes
from dreamer.online import Online, make_policy, step_shapes
from dreamer.replay import Replay
from dreamer.train import make_method


def make(config) -> Method:
    """Everything that a config of an agent means."""
    resolved, config = config.to_dict(), config.to_dict()
    if config["behavior"] == "none":
        raise ValueError("behavior is 'none', but an agent acts; use 'actor' or 'cem'")
    task = {name: config["env"].pop(name) for name in ("task", "size", "repeat")}
    one = make_env(seed=config["seed"], **task)
    spaces, actions = dict(one.observations), dict(one.actions)
    one.close()

    planner = config.pop("planner")

    def chooser(model, behavior, **changes):
        if behavior is not None:
            return behave.make_chooser(model, behavior)
        return cem.make_chooser(model, **planner | changes)

    def source(model, behavior):
        return functools.partial(
            make_online_source,
            model=model,
            choose=chooser(model, behavior),
            task=task,
            batch=config["batch"],
            length=config["length"],
            seed=config["seed"],
            **config["env"],
            **config["replay"],
        )

    def episodes(model, behavior):
        choose = chooser(model, behavior, explore=0.0)
        seed = config["seed"]
        return make_episodes(model, choose, task=task, seed=seed, **config["episodes"])

    def benches(model, behavior):
        names = ("batch", "length", "seed")
        shape = {name: config[name] for name in names}
        return make_benches(model, task=task, **config["env"], **shape)

    pieces = {"source": source, "evals": {"episodes": episodes}, "benches": benches}
    return make_method(config, resolved, spaces, actions, **pieces)


def make_online_source(
    split,
    shard,
    folder,
    *,
    model,
    choose,
    task,
    batch,
    length,
    seed,
    count,
    processes,
    timeout_s,
    ratio,
    capacity,
    first_steps,
) -> Online:
    """Environments, replay in the run's folder, and the policy that joins them."""
    if shard[1] != 1:
        raise ValueError(f"an agent acts in one process, not in {shard[1]}; use one")
    shapes = step_shapes(model)
    replay = Replay(
        pathlib.Path(folder) / "replay",
        shapes,
        streams=count,
        capacity=capacity,
        length=length,
    )
    pool = functools.partial(
        Pool, **task, count=count, processes=processes, timeout_s=timeout_s
    )
    policy = make_policy(model, choose, seed=seed)
    shared = {"batch": batch, "ratio": ratio, "first_steps": first_steps, "seed": seed}
    return Online(pool, replay, policy, model, **shared)
