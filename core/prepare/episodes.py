"""From recorded trajectories to pieces of equal rate and names, with what is known of them."""

import dataclasses
import hashlib
import re

import cv2
import numpy as np

from core.data import source_names
from core.data.records import BadSample, explain
from core.data.resample import ACTIONS, resample_episode
from core.data.steps import RESERVED, check_steps, slice_steps
from core.prepare.clips import check_held, place, threshold
from core.prepare.cut_video import Recipe, Writer

EXACT_BELOW = 128  # pixels of a picture's short side, up to which every one is kept
MODEL = "model/"
PLAIN = re.compile(r"(log/)?[A-Za-z_]\w*")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to prepare: trajectories by a name of core/data/source_names.py, and how.

    rate: steps per second that recordings are brought to, 0 as they are; actions: what
    several become then (core/data/resample.py). clock: steps per second of recordings that
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
        check_held(self.held)
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
    steps = check_steps(recordings.load(index))
    steps = {name: x for name, x in steps.items() if not name.startswith(MODEL)}
    count = len(steps["action"])
    if plan.clock and "time" not in steps:
        steps["time"] = np.arange(count) / plan.clock
    if plan.rate:
        if np.count_nonzero(steps["is_first"][1:]):
            raise BadSample(
                "holds several episodes; only one by one can they be resampled"
            )
        steps = resample_episode(steps, plan.rate, plan.actions)
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
        piece = slice_steps(steps, int(start), int(stop))
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


def foretold_form(plan: Plan) -> dict:
    """The form that pieces will have, as far as one of the first recordings tells."""
    recordings = source_names.recordings(plan.place)
    for index in range(min(len(recordings), 8)):
        try:
            steps = slice_steps(steps_of(plan, recordings, index), 0, 1)
            return form_of({k: stored(plan, x) for k, x in steps.items()})
        except (BadSample, OSError, ValueError) as error:
            why = explain(error)
    raise ValueError(f"the first recordings of {plan.place} cannot be read: {why}")


def check_names(plan: Plan):
    """Tell at once of names that are mistyped, as far as the first recordings know."""
    form = foretold_form(plan) if plan.units or plan.keep else {}
    for name, _ in plan.units:
        if name not in form:
            raise ValueError(
                f"units names {name!r}; {plan.place} gives {', '.join(sorted(form))}"
            )


def about(plan: Plan) -> dict:
    """What is known of the arrays: names of their numbers, units, steps per second."""
    told = source_names.recordings(plan.place).about
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
