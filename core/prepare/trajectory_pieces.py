"""Cuts recorded trajectories into pieces with the same names, rate and image size."""

import dataclasses
import hashlib
import itertools
import re

import cv2
import numpy as np

from core.data import source_names
from core.data.episodes.action_parts import layout_of
from core.data.episodes.resample import ACTIONS, resample_episode
from core.data.episodes.steps import RESERVED, check_steps, slice_steps
from core.data.records import BadSample, explain
from core.prepare.cut_video import ClipWriter, Recipe
from core.prepare.video_clips import check_held, hash_to_share, validation_edge

EXACT_BELOW = 128  # pixels of the short side; smaller images are stored without loss
MODEL = "model/"
NAME_PATTERN = re.compile(r"(log/)?[A-Za-z_]\w*")


@dataclasses.dataclass(frozen=True)
class TrajectoryPlan:
    """Which trajectories to prepare, and how. Stored in the data set.

    place: a name for core/data/source_names.py.
    rate: steps per second to resample to, 0 for none; actions: how several become one then
      (core/data/episodes/resample.py). clock: steps per second of recordings without time.
    size: pixels of both sides of images, 0 to keep theirs. crf: x264's quality.
    frame_tolerance: as in source_names.recordings.
    keep: (new name, name) of the arrays to keep, all if empty. units: (name, unit).
    piece: most steps per record. held: share of the recordings for validation.
    encoder: digest of the weights whose features of pictures of `size` pixels stand in place
      of these (core/data/episodes/pictures.py); "" for pictures.

    Raises ValueError if a field is out of range.
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
    frame_tolerance: float = 0.5
    encoder: str = ""

    def __post_init__(self):
        if self.actions not in ACTIONS:
            raise ValueError(
                f"actions is {self.actions!r}; expected one of {', '.join(ACTIONS)}"
            )
        check_held(self.held)
        names = [name for name, _ in self.keep]
        for name in names:
            if name in RESERVED or names.count(name) > 1:
                why = "the schema has" if name in RESERVED else "it has twice"
                raise ValueError(
                    f"keep has the new name {name!r}, which {why}; choose another name"
                )
            if not NAME_PATTERN.fullmatch(name):
                raise ValueError(
                    f"keep has the new name {name!r}; use letters, digits and _, after log/ "
                    "if it is not for training"
                )
        for name, least in {"rate": 0, "clock": 0, "size": 0, "piece": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; use {least} or more"
                )

    def recordings(self):
        """The recordings to prepare (core/data/episodes/trajectories.py)."""
        return source_names.recordings(self.place, "", self.frame_tolerance)


def load_prepared_steps(plan: TrajectoryPlan, recordings, index: int) -> dict:
    """The steps of a recording, resampled, with the arrays to keep; images not encoded.

    Raises BadSample.
    """
    steps = check_steps(recordings.load(index))
    steps = {name: x for name, x in steps.items() if not name.startswith(MODEL)}
    count = len(steps["action"])
    if plan.clock and "time" not in steps:
        steps["time"] = np.arange(count) / plan.clock
    if plan.rate:
        if np.count_nonzero(steps["is_first"][1:]):
            raise BadSample(
                "has several episodes; only single episodes can be resampled"
            )
        choices = any(layout_of(recordings.about.get("action", [])))
        if choices and plan.actions != "last":
            raise BadSample(
                f"has discrete actions, which have no {plan.actions}; use actions last"
            )
        steps = resample_episode(steps, plan.rate, plan.actions)
    return select_arrays(steps, plan.keep)


def select_arrays(steps: dict, keep) -> dict:
    """The arrays to keep by their new names; all if `keep` is empty."""
    if not keep:
        return steps
    found = {name: x for name, x in steps.items() if name in RESERVED}
    for new, old in keep:
        if old not in steps:
            raise BadSample(f"has no {old!r}; it has {', '.join(sorted(steps))}")
        found[new] = steps[old]
    return found


def cut_pieces(plan: TrajectoryPlan, steps: dict, encode=lambda piece: piece):
    """Yield (first step, {name: array or EncodedVideo}) of pieces of about equal length.

    encode: as of core.prepare.encoded.make_encode, if pictures are to become features.
    """
    count = len(steps["action"])
    parts = -(-count // plan.piece)
    edges = np.rint(np.linspace(0, count, parts + 1)).astype(int)
    for start, stop in itertools.pairwise(edges):
        piece = encode(slice_steps(steps, int(start), int(stop)))
        yield int(start), {k: encode_array(plan, x) for k, x in piece.items()}


def encode_array(plan: TrajectoryPlan, x):
    """Resize images [T, H, W, C] to the plan's size, and encode large ones as video."""
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
    return x if exact else EncodedVideo(x, plan.crf)


class EncodedVideo:
    """Images [T, H, W, 3] as an mp4 file with one frame per second: `file`, its bytes."""

    def __init__(self, images, crf):
        self.shape = images.shape
        writer = ClipWriter(images.shape[1:3], 1.0, Recipe(crf=crf))
        for image in images:
            writer.add(image)
        self.file = writer.finish(0.0).video


def piece_form(piece: dict) -> dict:
    """{name: [kind, shape of a step]}: kind is a dtype, "text", or "film" for video."""
    return {
        name: ["film", list(x.shape[1:])]
        if isinstance(x, EncodedVideo)
        else ["text" if x.dtype.kind == "U" else x.dtype.name, list(x.shape[1:])]
        for name, x in sorted(piece.items())
    }


def as_arrays(piece) -> dict:
    """A piece with arrays only: encoded videos as uint8 [bytes]."""
    return {
        name: np.frombuffer(x.file, np.uint8) if isinstance(x, EncodedVideo) else x
        for name, x in piece.items()
    }


def as_example_arrays(arrays, form) -> dict:
    """Arrays of a piece as the features of an example."""
    convert = {"film": lambda x: x.tobytes(), "text": lambda x: x.tolist()}
    return {
        name: convert.get(kind, lambda x: x)(arrays[name])
        for name, (kind, _) in form.items()
    }


def predict_form(plan: TrajectoryPlan) -> dict:
    """The form (`piece_form`) of the first recording that can be read, of eight.

    Raises ValueError if none can.
    """
    recordings, reason = plan.recordings(), ""
    for index in range(min(len(recordings), 8)):
        try:
            steps = slice_steps(load_prepared_steps(plan, recordings, index), 0, 1)
            return piece_form({k: encode_array(plan, x) for k, x in steps.items()})
        except (BadSample, OSError, ValueError) as error:
            reason = reason or f"{recordings.name(index)} {explain(error)}"
    raise ValueError(f"the first recordings of {plan.place} cannot be read: {reason}")


def check_names(plan: TrajectoryPlan):
    """Raise ValueError if a name in `keep` or `units` is not in the first recordings."""
    form = predict_form(plan) if plan.units or plan.keep else {}
    for name, _ in plan.units:
        if name not in form:
            raise ValueError(
                f"units has the name {name!r}, which {plan.place} does not have; it has "
                f"{', '.join(sorted(form))}"
            )


def describe_arrays(plan: TrajectoryPlan) -> dict:
    """{"names", "units", "rate", "action"} of the prepared arrays, as in `Recordings` of
    core/data/episodes/trajectories.py. Actions keep their units.
    """
    known = plan.recordings().about
    new = {old: name for name, old in plan.keep} or None
    numbers = {
        name if new is None else new.get(name, name): x
        for name, x in known.get("names", {}).items()
        if new is None or name in new or name == "action"
    }
    units = known.get("units", {}) | dict(plan.units)
    rate = plan.rate or known.get("rate", 0)
    about = {"names": numbers, "units": units, "rate": rate}
    if "action" in known and not (plan.rate and plan.actions == "sum"):
        about["action"] = known["action"]  # a sum has other bounds
    if plan.encoder:
        stored = {"encoder": plan.encoder, "size": plan.size, "source": plan.place}
        about["features"] = stored
    return about


def recordings_edge(plan: TrajectoryPlan, all_names) -> float:
    """Recordings with a `name_to_share` below this number are for validation."""
    return validation_edge((name_to_share(name) for name in all_names), plan.held)


def name_to_share(name: str) -> float:
    """A number in [0, 1) by the hash of a recording's name."""
    return hash_to_share(hashlib.sha256(name.encode()).hexdigest())
