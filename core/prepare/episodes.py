"""From recorded trajectories to pieces of equal rate and names, with what is known of them."""

import dataclasses
import hashlib
import pathlib
import re

import cv2
import numpy as np

from core.data import names
from core.data.rate import ACTIONS, resampled
from core.data.records import BadSample, explain
from core.data.steps import RESERVED, check, cut
from core.prepare import work
from core.prepare.clips import SPLITS, place, threshold
from core.prepare.cut import Recipe, Writer

TIMEOUT_S = 3600.0  # of a recording
EXACT_BELOW = 128  # pixels of a picture's short side, up to which every one is kept
MODEL = "model/"
PLAIN = re.compile(r"(log/)?[A-Za-z_]\w*")
ODD = "has other arrays than most"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to prepare: trajectories by a name of core/data/names.py, and how.

    rate: steps per second that recordings are brought to, 0 as they are; actions: what
    several become then (core/data/rate.py). clock: steps per second of recordings that
    do not tell their time. size: pixels of both sides of pictures, 0 as they are. keep:
    (new name, name) of what is kept, nothing for all. units: (name, unit). piece: steps of
    a record at most. held: share of the recordings that becomes the validation split.
    """

    place: str
    rate: float = 0.0
    actions: str = "last"
    clock: float = 0.0
    size: int = 0
    keep: tuple[tuple[str, str], ...] = ()
    units: tuple[tuple[str, str], ...] = ()
    piece: int = 32
    held: float = 0.05
    crf: int = 23
    licence: str = ""

    def __post_init__(self):
        if self.actions not in ACTIONS:
            raise ValueError(
                f"actions is {self.actions!r}; expected one of {', '.join(ACTIONS)}"
            )
        for name, _ in self.keep:
            if not PLAIN.fullmatch(name):
                raise ValueError(
                    f"keep has the new name {name!r}; use letters, digits and _, with log/ "
                    "before it for what is not to be trained on"
                )
        for name, least in {"rate": 0, "clock": 0, "size": 0, "piece": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; use {least} or more"
                )


def steps_of(plan: Plan, recordings, index: int) -> dict:
    """All steps of a recording as they are to be kept; pictures are not encoded yet."""
    steps = check(recordings.load(index))
    steps = {name: x for name, x in steps.items() if not name.startswith(MODEL)}
    count = len(steps["action"])
    if plan.clock and "time" not in steps:
        steps["time"] = np.arange(count) / plan.clock
    if plan.rate:
        if np.count_nonzero(steps["is_first"][1:]):
            raise BadSample(
                "holds several episodes; only one by one can they be resampled"
            )
        steps = resampled(steps, plan.rate, plan.actions)
    return kept(steps, plan.keep)


def kept(steps: dict, keep) -> dict:
    """What is to be kept of a recording's steps, by its new names."""
    if not keep:
        return steps
    found = {name: x for name, x in steps.items() if name in RESERVED}
    for new, old in keep:
        if old not in steps:
            raise BadSample(f"has no {old!r}, but {', '.join(sorted(steps))}")
        found[new] = steps[old]
    return found


def pieces_of(plan: Plan, steps: dict):
    """(first step, arrays and encoded pictures by name) of each piece of a recording."""
    count = len(steps["action"])
    parts = -(-count // plan.piece)
    edges = np.rint(np.linspace(0, count, parts + 1)).astype(int)
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        piece = cut(steps, int(start), int(stop))
        yield int(start), {k: stored(plan, x) for k, x in piece.items()}


def stored(plan: Plan, x):
    """An array as it is written: pictures as large as they shall be, encoded if large."""
    if x.dtype != np.uint8 or x.ndim != 4:
        return x
    shape = (plan.size, plan.size) if plan.size else x.shape[1:3]
    exact = min(shape) < EXACT_BELOW or x.shape[3] != 3
    if not exact:
        shape = tuple(2 * -(-side // 2) for side in shape)
    if shape != x.shape[1:3]:
        x = np.stack(
            [cv2.resize(y, shape[::-1], interpolation=cv2.INTER_AREA) for y in x]
        )
        x = x if x.ndim == 4 else x[..., None]
    return x if exact else Film(x, plan.crf)


class Film:
    """Pictures [T, H, W, 3] as the bytes of an mp4 file of one a second."""

    def __init__(self, pictures, crf):
        self.shape = pictures.shape
        writer = Writer(pictures.shape[1:3], 1.0, Recipe(crf=crf))
        for picture in pictures:
            writer.add(picture)
        self.file = writer.finish(0.0).video


def form_of(piece: dict) -> dict:
    """{name: (kind, shape of a step)} of a piece; a film's kind is "film"."""
    return {
        name: ["film", list(x.shape[1:])]
        if isinstance(x, Film)
        else ["text" if x.dtype.kind == "U" else x.dtype.name, list(x.shape[1:])]
        for name, x in sorted(piece.items())
    }


def cut_here(plan: Plan, folder: pathlib.Path, *, workers=1, progress=lambda *_: None):
    """Cut all recordings into `folder`, side by side; those that are there stay.

    progress: (recordings done, of so many) -> None.

    Returns:
      facts of each recording by name: how many "steps", "pieces" and "bytes", the "form"
      of a step, and what is "bad".
    """
    recordings = names.recordings(plan.place)
    homes = [folder / home_of(recordings.name(i)) for i in range(len(recordings))]
    jobs = {}
    for index, home in enumerate(homes):
        facts = work.facts_of(home)
        if facts is None or facts["made_of"] != made_of(plan):
            jobs[home] = plan, recordings, index
    before = len(homes) - len(jobs)
    progress(before, len(homes))
    run = work.run_all(jobs, cut_one, workers=workers, timeout_s=TIMEOUT_S, lost=lost)
    for count, _ in enumerate(run, before + 1):
        progress(count, len(homes))
    found = [work.facts_of(home) for home in homes]
    return {facts["name"]: facts for facts in found}


def home_of(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def made_of(plan: Plan) -> dict:
    """What the pieces of a recording depend on, but it and the code."""
    values = dataclasses.asdict(plan) | {"units": None, "held": None}
    return {
        k: [list(pair) for pair in x] if k == "keep" else x for k, x in values.items()
    }


def cut_one(folder, plan, recordings, index):
    """The pieces of one recording as files of its folder, and their facts."""
    work.begin(folder)
    facts = {"name": recordings.name(index), "index": index, "bad": ""}
    facts |= nothing(plan)
    try:
        steps = steps_of(plan, recordings, index)
        facts["seconds"] = seconds_of(steps)
        for number, (start, piece) in enumerate(pieces_of(plan, steps)):
            facts["form"] = form_of(piece)
            facts["pieces"].append(start)
            facts["steps"] += len(piece["is_first"])
            facts["bytes"] += write_piece(folder / f"{number:05d}.npz", piece)
    except (BadSample, OSError, ValueError) as error:
        facts |= {"bad": explain(error)} | nothing(plan)
    work.finish(folder, facts)


def lost(folder, reason, plan, recordings, index):
    """What is left of a recording whose reader has died: nothing."""
    work.begin(folder)
    facts = {"name": recordings.name(index), "index": index, "bad": reason}
    work.finish(folder, facts | nothing(plan))


def nothing(plan) -> dict:
    """Facts of a recording of which there is nothing yet, or in the end."""
    empty = {"pieces": [], "steps": 0, "seconds": 0.0, "bytes": 0, "form": None}
    return empty | {"made_of": made_of(plan)}


def seconds_of(steps) -> float:
    """How long a recording is, where it tells its time."""
    time = steps.get("time", ())
    return (
        float(time[-1] - time[0]) * len(time) / (len(time) - 1)
        if len(time) > 1
        else 0.0
    )


def plain(piece) -> dict:
    """A piece as arrays alone."""
    return {
        name: np.frombuffer(x.file, np.uint8) if isinstance(x, Film) else x
        for name, x in piece.items()
    }


def as_example(arrays, form) -> dict:
    """Arrays of a piece as a builder's example takes them."""
    as_told = {"film": lambda x: x.tobytes(), "text": lambda x: x.tolist()}
    return {
        name: as_told.get(kind, lambda x: x)(arrays[name])
        for name, (kind, _) in form.items()
    }


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


def foretold_form(plan: Plan) -> dict:
    """The form that pieces will have, as far as one of the first recordings tells."""
    recordings = names.recordings(plan.place)
    for index in range(min(len(recordings), 8)):
        try:
            steps = cut(steps_of(plan, recordings, index), 0, 1)
            return form_of({k: stored(plan, x) for k, x in steps.items()})
        except (BadSample, OSError, ValueError) as error:
            why = explain(error)
    raise ValueError(f"the first recordings of {plan.place} cannot be read: {why}")


def about(plan: Plan) -> dict:
    """What is known of the arrays: names of their numbers, units, steps per second."""
    told = names.recordings(plan.place).about
    new = {old: name for name, old in plan.keep} or None
    numbers = {
        name if new is None else new.get(name, name): x
        for name, x in told.get("names", {}).items()
        if new is None or name in new or name == "action"
    }
    units = told.get("units", {}) | dict(plan.units)
    return {"names": numbers, "units": units, "rate": plan.rate or told.get("rate", 0)}


def edge_of(plan: Plan, all_names) -> float:
    """Recordings that lie below it are held out."""
    return threshold((spot(name) for name in all_names), plan.held)


def spot(name: str) -> float:
    """Where a recording lies in [0, 1), by its name."""
    return place(hashlib.sha256(name.encode()).hexdigest())
