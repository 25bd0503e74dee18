"""World models pretrained on recorded trajectories, as a Method (arXiv 2301.04104)."""

import functools

import numpy as np

from core.data.trajectories import stack_windows
from core.method import Method
from dreamer import data, evals
from dreamer.train import make_method


def make(config) -> Method:
    """Everything that a config of offline pretraining means."""
    resolved, config = config.to_dict(), config.to_dict()
    seed, look = config["seed"], config["data"]
    pipeline = {name: look.pop(name) for name in ("workers", "max_bad_share")}
    steps = config["length"] * config["chunks"]
    records = data.make_records("train", seed=seed, steps=steps, **look)
    spaces, actions = data.spaces_of(records)

    def source(model, behavior):
        return functools.partial(
            data.make_offline_source,
            records=records,
            spaces=model.spaces,
            batch=config["batch"],
            parts=config["chunks"],
            seed=seed,
            deter=model.rssm.deter,
            stoch=model.rssm.stoch,
            **pipeline,
        )

    dream = functools.partial(make_dream, look=look, seed=seed, **config["dream"])
    return make_method(
        config, resolved, spaces, actions, source=source, evals={"dream": dream}
    )


def make_dream(model, behavior, *, look, seed, steps, context, clips, read_clips):
    """state -> how well it dreams, and of the embedded world, where it dreams the bodies.

    Clips of the world are apart from those of training; windows of a folder are not.
    """
    held = data.make_records("held", seed=seed, steps=steps, **look)
    places = np.linspace(0, min(len(held), 1 << 20) - 1, clips).astype(int)
    batch = functools.cache(lambda: stack_windows(held, places))
    films = evals.make_dream(model, batch, context=context)
    if look["folder"]:
        return films
    positions = evals.make_positions(
        model,
        data.make_records("train", seed=seed, steps=steps, **look).world,
        held.world,
        context=context,
        clips=clips,
        read_clips=read_clips,
    )
    return lambda state: films(state) | positions(state)
