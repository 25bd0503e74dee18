"""Cuts recorded trajectories into files of pieces, in parallel, and assigns splits."""

import dataclasses
import pathlib

import numpy as np

from core.data import source_names
from core.data.records import BadSample, explain
from core.prepare import parallel_work
from core.prepare.parallel_work import folder_name
from core.prepare.trajectory_pieces import (
    TrajectoryPlan,
    as_arrays,
    as_example_arrays,
    check_names,
    cut_pieces,
    load_prepared_steps,
    name_to_share,
    piece_form,
    recordings_edge,
)
from core.prepare.video_clips import SPLITS

BLOCK = 64  # recordings per process, which opens the data set once
TIMEOUT_S = 3600.0  # per block
ODD = "has other arrays than most"


def cut_recordings(
    plan: TrajectoryPlan,
    folder: pathlib.Path,
    *,
    workers=1,
    progress=lambda *_: None,
    encode=None,
):
    """Cut all recordings into `folder`; those that are cut already are kept.

    workers: processes. progress: called with (recordings done, number of recordings).
    encode: as of `cut_pieces`; all is then done in this process, which has the accelerator.

    Returns {name of a recording: facts}: "steps", "pieces" (their first steps), "seconds",
    "bytes", "form" (array -> kind and shape of a step), and "bad", why it cannot be read.
    """
    check_names(plan)
    recordings = plan.recordings()
    all_names = [recordings.name(i) for i in range(len(recordings))]
    homes = [folder / folder_name(name) for name in all_names]
    for i, home in enumerate(homes if encode else ()):
        if not is_cut(plan, home):
            cut_one_recording(home, plan, recordings, i, all_names[i], encode)
        progress(i + 1, len(homes))
    del recordings
    # A crash loses only the recording being cut; the rest of its block is tried again.
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
            jobs,
            cut_block,
            workers=workers,
            timeout_s=TIMEOUT_S,
            on_lost=record_lost_block,
        ):
            done += len(jobs[home][1])
            progress(min(done, len(homes)), len(homes))
    progress(len(homes), len(homes))
    return {
        name: parallel_work.read_facts(home)
        for name, home in zip(all_names, homes, strict=True)
    }


def is_cut(plan: TrajectoryPlan, home) -> bool:
    """Whether a folder has the pieces of a recording by this plan."""
    facts = parallel_work.read_facts(home)
    return facts is not None and facts["made_of"] == inputs_of(plan)


def inputs_of(plan: TrajectoryPlan) -> dict:
    """What pieces depend on besides the recording and the code; a change cuts them anew."""
    values = dataclasses.asdict(plan) | {"units": None, "held": None}
    return {
        k: [list(pair) for pair in x] if k == "keep" else x for k, x in values.items()
    }


def cut_block(_, plan, block):
    """Cut a block of recordings, (number, folder, name) each. Runs in its own process."""
    recordings = plan.recordings()
    for index, home, name in block:
        if not is_cut(plan, home):
            cut_one_recording(home, plan, recordings, index, name)


def record_lost_block(_, reason, plan, block):
    """Mark the first recording of a block that is not cut yet as bad: its process died."""
    for index, home, name in block:
        if not is_cut(plan, home):
            parallel_work.empty_folder(home)
            parallel_work.write_facts(
                home, empty_facts(plan, index, name) | {"bad": reason}
            )
            return


def cut_one_recording(home, plan, recordings, index, name, *encode):
    """Write the pieces of one recording into its folder, then their facts."""
    parallel_work.empty_folder(home)
    facts = empty_facts(plan, index, name)
    for number, (start, piece, reason) in enumerate(
        pieces_until_bad(plan, recordings, index, *encode)
    ):
        if reason:
            facts = empty_facts(plan, index, name) | {"bad": reason}
            break
        facts["form"] = piece_form(piece)
        facts["pieces"].append(start)
        facts["steps"] += len(piece["is_first"])
        facts["seconds"] += seconds_of(piece)
        facts["bytes"] += write_piece(home / f"{number:05d}.npz", piece)
    parallel_work.write_facts(home, facts)


def pieces_until_bad(plan, recordings, index, *encode):
    """Yield (first step, piece, "") per piece, and (0, None, reason) if the recording is bad.

    Errors of the caller, such as a full disk, are not taken for a bad recording.
    """
    try:
        steps = load_prepared_steps(plan, recordings, index)
        for start, piece in cut_pieces(plan, steps, *encode):
            yield start, piece, ""
    except (BadSample, OSError, ValueError) as error:
        yield 0, None, explain(error)


def empty_facts(plan, index, name) -> dict:
    """The facts of a recording without pieces."""
    empty = {"pieces": [], "steps": 0, "seconds": 0.0, "bytes": 0, "form": None}
    return empty | {"name": name, "index": index, "bad": "", "made_of": inputs_of(plan)}


def seconds_of(steps) -> float:
    """The duration of steps; 0 if they have no time."""
    time = steps.get("time", ())
    if len(time) < 2:
        return 0.0
    return float(time[-1] - time[0]) * len(time) / (len(time) - 1)


def write_piece(path, piece) -> int:
    """Write the arrays of a piece as .npz; returns their bytes before compression."""
    arrays = as_arrays(piece)
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    return sum(x.nbytes for x in arrays.values())


def read_piece(path, form) -> dict:
    """Read what `write_piece` wrote, as an example for the builder."""
    with open(path, "rb") as file:
        return as_example_arrays(np.load(file, allow_pickle=False), form)


def assign_recording_splits(
    plan: TrajectoryPlan, facts: dict
) -> tuple[dict, dict[str, str]]:
    """(form of most recordings, {name: "train", "validation", or why it is dropped})."""
    forms = {str(x["form"]): x["form"] for x in facts.values() if not x["bad"]}
    all_forms = [str(x["form"]) for x in facts.values() if not x["bad"]]
    usual = max(forms, key=all_forms.count, default="")
    validates = validation_names(plan, facts)
    splits = {}
    for name, found in facts.items():
        if found["bad"]:
            splits[name] = f"bad: {found['bad']}"
        elif str(found["form"]) != usual:
            splits[name] = ODD
        else:
            splits[name] = SPLITS[name in validates]
    return forms.get(usual, {}), splits


def validation_names(plan: TrajectoryPlan, names) -> set[str]:
    """The recordings for validation; for features, those of the data with pictures.

    So that an evaluation there meets no episode that was trained on.
    """
    if plan.encoder:
        known = source_names.recordings(plan.place, SPLITS[1], plan.frame_tolerance)
        return {known.name(i) for i in range(len(known))}
    edge = recordings_edge(plan, names)
    return {name for name in names if name_to_share(name) < edge}
