"""Cuts recorded trajectories into files of pieces, side by side, and decides on each."""

import dataclasses
import pathlib

import numpy as np

from core.data import source_names
from core.data.records import BadSample, explain
from core.prepare import parallel_work
from core.prepare.clips import SPLITS
from core.prepare.episodes import (
    Plan,
    as_example,
    check_names,
    edge_of,
    form_of,
    pieces_of,
    plain,
    spot,
    steps_of,
)
from core.prepare.parallel_work import home_of

BLOCK = 64  # recordings that a process cuts, for which it opens the data set once
TIMEOUT_S = 3600.0  # of a block
ODD = "has other arrays than most"


def cut_here(plan: Plan, folder: pathlib.Path, *, workers=1, progress=lambda *_: None):
    """Cut all recordings into `folder`, side by side; those that are there stay.

    progress: (recordings done, of so many) -> None.

    Returns:
      facts of each recording by name: how many "steps", "pieces" and "bytes", the "form"
      of a step, and what is "bad".
    """
    check_names(plan)
    recordings = source_names.recordings(plan.place)
    all_names = [recordings.name(i) for i in range(len(recordings))]
    homes = [folder / home_of(name) for name in all_names]
    del recordings
    # A process that crashes costs the recording that it was at; the rest is tried anew.
    while todo := [i for i, home in enumerate(homes) if not is_cut(plan, home)]:
        done = len(homes) - len(todo)
        progress(done, len(homes))
        size = min(BLOCK, -(-len(todo) // (2 * workers)))
        blocks = [todo[i : i + size] for i in range(0, len(todo), size)]
        jobs = {
            homes[block[0]]: (plan, [(i, homes[i], all_names[i]) for i in block])
            for block in blocks
        }
        for home in parallel_work.run_all(
            jobs, cut_block, workers=workers, timeout_s=TIMEOUT_S, lost=lost
        ):
            done += len(jobs[home][1])
            progress(min(done, len(homes)), len(homes))
    progress(len(homes), len(homes))
    return {
        name: parallel_work.facts_of(home)
        for name, home in zip(all_names, homes, strict=True)
    }


def is_cut(plan: Plan, home) -> bool:
    facts = parallel_work.facts_of(home)
    return facts is not None and facts["made_of"] == made_of(plan)


def made_of(plan: Plan) -> dict:
    """What the pieces of a recording depend on, but it and the code."""
    values = dataclasses.asdict(plan) | {"units": None, "held": None}
    return {
        k: [list(pair) for pair in x] if k == "keep" else x for k, x in values.items()
    }


def cut_block(_, plan, block):
    """The pieces of recordings (number, folder, name), each as files with their facts."""
    recordings = source_names.recordings(plan.place)
    for index, home, name in block:
        if not is_cut(plan, home):
            cut_one(home, plan, recordings, index, name)


def lost(_, reason, plan, block):
    """The reader of a block has died at the first recording that is not cut yet."""
    for index, home, name in block:
        if not is_cut(plan, home):
            parallel_work.begin(home)
            parallel_work.finish(home, nothing(plan, index, name) | {"bad": reason})
            return


def cut_one(home, plan, recordings, index, name):
    """The pieces of one recording as files of its folder, and their facts."""
    parallel_work.begin(home)
    facts = nothing(plan, index, name)
    for number, (start, piece, reason) in enumerate(until_bad(plan, recordings, index)):
        if reason:
            facts = nothing(plan, index, name) | {"bad": reason}
            break
        facts["form"] = form_of(piece)
        facts["pieces"].append(start)
        facts["steps"] += len(piece["is_first"])
        facts["seconds"] += seconds_of(piece)
        facts["bytes"] += write_piece(home / f"{number:05d}.npz", piece)
    parallel_work.finish(home, facts)


def until_bad(plan, recordings, index):
    """(first step, piece, "") of each piece of a recording, (0, None, reason) where it is
    bad. What goes wrong with a piece after it was given is no fault of the recording."""
    try:
        steps = steps_of(plan, recordings, index)
        for start, piece in pieces_of(plan, steps):
            yield start, piece, ""
    except (BadSample, OSError, ValueError) as error:
        yield 0, None, explain(error)


def nothing(plan, index, name) -> dict:
    """Facts of a recording of which there is nothing yet, or in the end."""
    empty = {"pieces": [], "steps": 0, "seconds": 0.0, "bytes": 0, "form": None}
    return empty | {"name": name, "index": index, "bad": "", "made_of": made_of(plan)}


def seconds_of(steps) -> float:
    """How long steps take, where they tell their time."""
    time = steps.get("time", ())
    if len(time) < 2:
        return 0.0
    return float(time[-1] - time[0]) * len(time) / (len(time) - 1)


def write_piece(path, piece) -> int:
    """Write a piece's arrays and films; gives their bytes."""
    arrays = plain(piece)
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    return sum(x.nbytes for x in arrays.values())


def read_piece(path, form) -> dict:
    """What `write_piece` has written, as an example takes it."""
    with open(path, "rb") as file:
        return as_example(np.load(file, allow_pickle=False), form)


def judge(plan: Plan, facts: dict) -> tuple[dict, dict[str, str]]:
    """(the form of most recordings, {name: its fate}): a split, or why it is dropped."""
    forms = {str(x["form"]): x["form"] for x in facts.values() if not x["bad"]}
    told = [str(x["form"]) for x in facts.values() if not x["bad"]]
    usual = max(forms, key=told.count, default="")
    edge = edge_of(plan, facts)
    fates = {}
    for name, found in facts.items():
        if found["bad"]:
            fates[name] = f"bad: {found['bad']}"
        elif str(found["form"]) != usual:
            fates[name] = ODD
        else:
            fates[name] = SPLITS[spot(name) < edge]
    return forms.get(usual, {}), fates
