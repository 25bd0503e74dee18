"""World models pretrained on recorded trajectories, as a Method (arXiv 2301.04104)."""

import functools

import numpy as np

from core.data.trajectories import stack_windows
from core.method import Method
from dreamer import data, evals
from dreamer.update import make_method

SPREAD = 1 << 20  # records over which those that are dreamt of are spread


def make(config) -> Method:
    """Everything that a config of offline pretraining means."""
    resolved, config = config.to_dict(), config.to_dict()
    seed, look, dream = config["seed"], config["data"], config["dream"]
    pipeline = {name: look.pop(name) for name in ("workers", "max_bad_share")}
    look |= {"seed": seed, "apart": dream["steps"]}
    steps = config["length"] * config["chunks"]
    records = data.make_records("train", steps=steps, **look)
    spaces, actions = data.spaces_of(records)

    def source(model, behavior):
        return functools.partial(
            data.make_offline_source,
            records=records,
            spaces=model.spaces,
            action=model.rssm.action,
            batch=config["batch"],
            parts=config["chunks"],
            seed=seed,
            deter=model.rssm.deter,
            stoch=model.rssm.stoch,
            **pipeline,
        )

    judge = {"dream": functools.partial(make_dream, look=look, **dream)}
    return make_method(config, resolved, spaces, actions, source=source, evals=judge)


def make_dream(model, behavior, *, look, steps, context, clips, read_clips, read_steps):
    """state -> how well it dreams of what training never sees."""
    train, held = (
        data.shaped(
            data.make_records(split, steps=steps, **look),
            model.spaces,
            model.rssm.action,
            (evals.PLACE,),
        )
        for split in ("train", "validation")
    )
    # Spread, for neighbours of a folder's windows overlap.
    places = np.linspace(0, min(len(held), SPREAD) - 1, clips).astype(int)
    known = functools.cache(lambda: stack_windows(train, range(read_clips)))
    apart = functools.cache(lambda: stack_windows(held, places))
    more = {"context": context, "read_steps": read_steps}
    return evals.make_dream(model, apart, known, **more)
