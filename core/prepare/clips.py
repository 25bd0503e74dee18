"""From files of videos to clips with all that is known of them, and which of them to keep."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

from core.base.files import digest
from core.data import file_lists
from core.data.records import BadSample, explain
from core.data.video import SUFFIXES
from core.prepare import near_duplicates, parallel_work
from core.prepare.cut_video import Recipe, cut
from core.prepare.parallel_work import home_of

TIMEOUT_S = 3600.0  # of a file
SPLITS = ("train", "validation")


def check_held(held: float):
    if not 0 <= held < 1:
        raise ValueError(f"held is {held}; use 0 or more and less than 1")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which clips are kept, and for what.

    min_motion: mean change of brightness per second, of a range of 1. near: bits of the
    192 in which a clip may differ from an earlier one and still be its duplicate; -1 keeps
    duplicates. held: share of the source videos that becomes the validation split.
    """

    min_motion: float = 0.002
    near: int = 8
    held: float = 0.05

    def __post_init__(self):
        if not -1 <= self.near < near_duplicates.BANDS:
            raise ValueError(
                f"near is {self.near}; use -1 to {near_duplicates.BANDS - 1} bits"
            )
        check_held(self.held)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to prepare: a folder or list of videos (core/data/file_lists.py), and how."""

    place: str
    recipe: Recipe = Recipe()
    rules: Rules = Rules()
    licence: str = ""

    def sources(self) -> list[tuple[str, str, int]]:
        """(name, path or URL, label or -1) of each video."""
        root, names, labels = file_lists.find_files(self.place, SUFFIXES, "videos")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{self.place} names {twice} twice")
        paths = [x if file_lists.is_url(x) else os.path.join(root, x) for x in names]
        return list(zip(names, paths, labels or [-1] * len(names), strict=True))


def examples(plan: Plan, name, path, label) -> Iterator[dict]:
    """The example of each clip of one video; what is bad ends them with a BadSample."""
    source = file_lists.read_url(path) if file_lists.is_url(path) else path
    known = {"source": name, "label": label, "licence": plan.licence}
    known["checksum"] = digest(source)
    for number, clip in enumerate(cut(source, plan.recipe)):
        yield {"id": f"{name}#{number:05d}"} | known | clip._asdict()


def until_bad(plan: Plan, *source) -> Iterator[tuple[dict | None, str]]:
    """(example, "") of each clip of one video, and (None, reason) where it is bad.

    What goes wrong with an example after it was given is no fault of the video.
    """
    try:
        for example in examples(plan, *source):
            yield example, ""
    except (BadSample, OSError) as error:
        yield None, explain(error)


def cut_here(plan: Plan, folder: pathlib.Path, *, workers=1, progress=lambda *_: None):
    """Cut all videos into `folder`, side by side; those that are there stay.

    progress: (videos done, of so many) -> None.

    Returns:
      facts of each video by name: "clips", examples without their "video", and "bad".
    """
    jobs, sources = {}, plan.sources()
    homes = {name: folder / home_of(name) for name, _, _ in sources}
    for name, path, label in sources:
        facts = parallel_work.facts_of(homes[name])
        if facts is None or facts["made_of"] != made_of(plan, path, label):
            jobs[homes[name]] = plan, name, path, label
    before = len(sources) - len(jobs)
    progress(before, len(sources))
    run = parallel_work.run_all(
        jobs, cut_one, workers=workers, timeout_s=TIMEOUT_S, lost=lost
    )
    for count, _ in enumerate(run, before + 1):
        progress(count, len(sources))
    return {name: parallel_work.facts_of(home) for name, home in homes.items()}


def clips_of(facts: dict) -> list[dict]:
    """The examples, without their videos, in what `cut_here` has found."""
    return [clip for found in facts.values() for clip in found["clips"]]


def file_of(folder, clip) -> pathlib.Path:
    """Where `cut_here` has put a clip."""
    number = clip["id"].rpartition("#")[2]
    return folder / home_of(clip["source"]) / f"{number}.mp4"


def made_of(plan, path, label) -> list:
    """What the clips of a file depend on, but the code."""
    stamp = (
        []
        if file_lists.is_url(path) or not os.path.exists(path)
        else parallel_work.stamp(path)
    )
    return [dataclasses.asdict(plan.recipe), plan.licence, label, stamp]


def cut_one(folder, plan, name, path, label):
    """The clips of one video as files of its folder, and their facts."""
    parallel_work.begin(folder)
    clips, bad = [], ""
    for number, (example, reason) in enumerate(until_bad(plan, name, path, label)):
        if reason:
            bad = reason
            break
        video = example.pop("video")
        (folder / f"{number:05d}.mp4").write_bytes(video)
        clips.append(example | {"bytes": len(video)})
    facts = {"name": name, "clips": clips, "bad": bad}
    parallel_work.finish(folder, facts | {"made_of": made_of(plan, path, label)})


def lost(folder, reason, plan, name, path, label):
    """What is left of a video whose reader has died: nothing."""
    parallel_work.begin(folder)
    facts = {"name": name, "clips": [], "bad": reason}
    parallel_work.finish(folder, facts | {"made_of": made_of(plan, path, label)})


def decide(clips, rules: Rules) -> dict[str, str]:
    """{id: its fate} of all examples, which need no videos."""
    prints = {clip["id"]: clip["fingerprint"] for clip in clips}
    copies = near_duplicates.all_twins(prints, rules.near) if rules.near >= 0 else {}
    edge = threshold((place(clip["checksum"]) for clip in clips), rules.held)
    return {
        clip["id"]: fate(clip, rules, copies.get(clip["id"]), edge) for clip in clips
    }


def fate(clip, rules: Rules, copy: str | None, edge: float) -> str:
    """The split that a clip goes to, or why it is dropped.

    copy: the id of a clip that it looks like. edge: what `threshold` gives.
    """
    if clip["motion"] < rules.min_motion:
        return f"moves too little: {clip['motion']:.4f} a second"
    if copy:
        return f"looks like another: {copy}"
    return "validation" if place(clip["checksum"]) < edge else "train"


def kind_of(fate: str) -> str:
    """Why a clip is dropped, in general."""
    return fate.partition(":")[0]


def place(digest: str) -> float:
    """Where a video lies in [0, 1), by its content."""
    return int(digest[:13], 16) / 16**13


def threshold(places, held: float) -> float:
    """Videos that lie below it are held out: the share, or one of several at least."""
    places = sorted(set(places))
    if not held or len(places) < 2:
        return 0.0
    return max(held, (places[0] + places[1]) / 2)
