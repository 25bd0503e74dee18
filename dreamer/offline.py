"""World models pretrained on recorded trajectories, as a Method (arXiv 2301.04104)."""

import functools

import numpy as np

from core.data.trajectories import stack_windows
from core.method import Method
from dreamer import data, evals
from dreamer.update import make_method, make_networks

SPREAD = 1 << 20  # validation records over which the evaluated ones are spread
PIPELINE = ("workers", "max_bad_share")  # fields of `data` that do not choose records


def make(config) -> Method:
    """The Method of a config from configs/dreamer.py with trajectories.

    Raises ValueError for values that do not fit each other or the trajectories.
    """
    config = config.to_dict()
    dream, seed = config["dream"], config["seed"]
    pipeline = {name: config["data"][name] for name in PIPELINE}
    look = {k: v for k, v in config["data"].items() if k not in PIPELINE}
    look |= {"seed": seed, "apart": dream["steps"]}
    steps = config["length"] * config["chunks"]
    records = data.make_records("train", steps=steps, **look)
    model, behavior = make_networks(config, *data.spaces_of(records))
    return make_method(
        config,
        model,
        behavior,
        source=functools.partial(
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
        ),
        evals={"dream": make_dream(model, look=look, **dream)},
    )


def make_dream(model, *, look, steps, context, clips, read_clips, read_steps):
    """The evaluation "dream" on validation trajectories: state -> findings.

    look: arguments of `data.make_records` but split and steps. Other arguments are the
    config's section `dream`.
    """
    train, validation = (
        data.shaped(
            data.make_records(split, steps=steps, **look),
            model.spaces,
            model.rssm.action,
            (evals.PLACE,),
        )
        for split in ("train", "validation")
    )
    # Spread out, since neighboring windows of a recording overlap.
    chosen = np.linspace(0, min(len(validation), SPREAD) - 1, clips).astype(int)
    return evals.make_dream(
        model,
        functools.cache(lambda: stack_windows(validation, chosen)),
        functools.cache(lambda: stack_windows(train, range(read_clips))),
        context=context,
        read_steps=read_steps,
    )
