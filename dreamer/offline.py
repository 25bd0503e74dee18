"""World models pretrained on recorded trajectories, as a Method (arXiv 2301.04104)."""

import functools

import numpy as np

from core.data.episodes.trajectories import stack_windows
from core.method import Method
from core.section import Section
from dreamer import data, evals
from dreamer.update import make_method, make_networks

SPREAD = 1 << 20  # validation records over which the evaluated ones are spread
PIPELINE = (
    "workers",
    "max_bad_share",
    "stall_s",
)  # fields of `data` that do not choose records


def make(config: Section) -> Method:
    """The Method of a config from configs/dreamer.py with trajectories.

    Raises ValueError for values that do not fit each other or the trajectories.
    """
    dream, seed = config["dream"], config["seed"]
    given = config["data"]
    pipeline = given.only(*(name for name in PIPELINE if name in given))

    def read(split, *, steps):
        return (
            config["data"]
            .without(*PIPELINE)
            .into(
                data.make_records,
                split=split,
                steps=steps,
                seed=seed,
                apart=dream["steps"],
            )
        )

    records = read("train", steps=config["length"] * config["chunks"])
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
        evals={"dream": dream.into(make_dream, model=model, read=read)},
    )


def make_dream(model, *, read, steps, context, clips, read_clips, read_steps):
    """The evaluation "dream" on validation trajectories: state -> findings.

    read: (split, steps=) -> records of windows. Other arguments are the config's section
    `dream`.
    """
    train, validation = (
        data.shaped(
            read(split, steps=steps),
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
