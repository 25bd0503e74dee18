"""Cuts video files into clips in parallel, drops bad ones, and assigns splits."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterator

from core.base.files import digest
from core.data.decoding.video import SUFFIXES
from core.data.files import file_lists
from core.data.files.urls import is_url, read_url
from core.data.records import BadSample, explain
from core.prepare import near_duplicates, parallel_work
from core.prepare.cut_video import Recipe, cut_clips
from core.prepare.parallel_work import folder_name

TIMEOUT_S = 3600.0  # per file
SPLITS = ("train", "validation")


def check_held(held: float):
    """Raise ValueError unless 0 <= held < 1."""
    if not 0 <= held < 1:
        raise ValueError(f"held is {held}; use 0 or more and less than 1")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which clips are kept, and which are for validation.

    min_motion: least mean change of brightness (0..1) per second. near: a clip is a
    duplicate if its hash differs from an earlier one in at most so many of 192 bits, or if
    this holds for most clips of its video and those of others; -1 keeps duplicates. held:
    share of the source videos for validation. Raises ValueError.
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
class VideoPlan:
    """Which videos to prepare, and how. Stored in the data set.

    place: a folder or list of videos (core/data/files/file_lists.py). licence: of the videos.
    """

    place: str
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    rules: Rules = dataclasses.field(default_factory=Rules)
    licence: str = ""

    def files(self) -> file_lists.Files:
        """The videos of the place, and what was passed over. Raises ValueError."""
        return file_lists.find_files(self.place, SUFFIXES, "videos")

    def sources(self) -> list[tuple[str, str, int]]:
        """(printable name, path or address, label or -1) of each video.

        Raises ValueError.
        """
        found = self.files()
        names = found.names()
        if len(set(names)) < len(names):
            twice = collections.Counter(names).most_common(1)[0][0]
            raise ValueError(f"{self.place} names the video {twice} twice")
        paths = [x if is_url(x) else os.path.join(found.root, x) for x in found.paths]
        return list(zip(names, paths, found.labels or [-1] * len(names), strict=True))


def clip_examples(plan: VideoPlan, name, path, label) -> Iterator[dict]:
    """Yield the example of each clip of one video. Raises BadSample where it is damaged."""
    source = read_url(path) if is_url(path) else path
    known = {"source": name, "label": label, "licence": plan.licence}
    known["checksum"] = digest(source)
    for number, clip in enumerate(cut_clips(source, plan.recipe)):
        yield {"id": f"{name}#{number:05d}"} | known | clip._asdict()


def clips_until_bad(plan: VideoPlan, *source) -> Iterator[tuple[dict | None, str]]:
    """Yield (example, "") per clip of one video, and (None, reason) if the video is bad.

    source: (name, path, label). Errors of the caller, such as a full disk, are not taken
    for a bad video.
    """
    try:
        for example in clip_examples(plan, *source):
            yield example, ""
    except (BadSample, OSError) as error:
        yield None, explain(error)


def cut_videos(
    plan: VideoPlan, folder: pathlib.Path, *, workers=1, progress=lambda *_: None
):
    """Cut all videos into `folder`; those that are cut already are kept.

    workers: processes. progress: called with (videos done, number of videos).

    Returns {name of a video: facts}: "clips", examples without "video" and with "bytes",
    and "bad", why it cannot be read.
    """
    jobs, sources = {}, plan.sources()
    parallel_work.mark_work_folder(folder)
    homes = {name: folder / folder_name(name) for name, _, _ in sources}
    for name, path, label in sources:
        facts = parallel_work.read_facts(homes[name])
        if facts is None or facts["made_of"] != inputs_of(plan, path, label):
            jobs[homes[name]] = plan, name, path, label
    before = len(sources) - len(jobs)
    progress(before, len(sources))
    run = parallel_work.run_all(
        jobs,
        cut_one_video,
        workers=workers,
        timeout_s=TIMEOUT_S,
        on_lost=record_lost_video,
    )
    for count, _ in enumerate(run, before + 1):
        progress(count, len(sources))
    return {name: parallel_work.read_facts(home) for name, home in homes.items()}


def all_clips(facts: dict) -> list[dict]:
    """All examples, without their videos, in the facts of `cut_videos`."""
    return [clip for found in facts.values() for clip in found["clips"]]


def clip_path(folder, clip) -> pathlib.Path:
    """The file into which `cut_videos` wrote a clip."""
    number = clip["id"].rpartition("#")[2]
    return folder / folder_name(clip["source"]) / f"{number}.mp4"


def inputs_of(plan, path, label) -> list:
    """What the clips of a file depend on besides the code; a change cuts them anew."""
    stamp = (
        []
        if is_url(path) or not os.path.exists(path)
        else parallel_work.file_stamp(path)
    )
    return [dataclasses.asdict(plan.recipe), plan.licence, label, stamp]


def cut_one_video(folder, plan, name, path, label):
    """Write the clips of one video into its folder, then their facts."""
    parallel_work.empty_folder(folder)
    clips, bad = [], ""
    for number, (example, reason) in enumerate(
        clips_until_bad(plan, name, path, label)
    ):
        if reason:
            bad = reason
            break
        video = example.pop("video")
        (folder / f"{number:05d}.mp4").write_bytes(video)
        clips.append(example | {"bytes": len(video)})
    facts = {"name": name, "clips": clips, "bad": bad}
    parallel_work.write_facts(folder, facts | {"made_of": inputs_of(plan, path, label)})


def record_lost_video(folder, reason, plan, name, path, label):
    """Mark a video as bad whose process died."""
    parallel_work.empty_folder(folder)
    facts = {"name": name, "clips": [], "bad": reason}
    parallel_work.write_facts(folder, facts | {"made_of": inputs_of(plan, path, label)})


def assign_clip_splits(clips, rules: Rules) -> dict[str, str]:
    """{id: "train", "validation", or why it is dropped} of all examples."""
    prints = {clip["id"]: clip["fingerprint"] for clip in clips}
    copies = {}
    if rules.near >= 0:
        copies = near_duplicates.find_duplicates(prints, rules.near)
        by_source = collections.defaultdict(list)
        for clip in clips:
            if clip["motion"] >= rules.min_motion:
                by_source[near_duplicates.source_of(clip["id"])].append(clip["id"])
        for keys in by_source.values():
            copies = near_duplicates.copies_of_whole_videos(keys, copies) | copies
    edge = validation_edge(
        (hash_to_share(clip["checksum"]) for clip in clips), rules.held
    )
    return {
        clip["id"]: split_or_reason(clip, rules, copies.get(clip["id"]), edge)
        for clip in clips
    }


def split_or_reason(clip, rules: Rules, copy: str | None, edge: float) -> str:
    """The split of a clip, or why it is dropped.

    copy: id of an earlier clip that looks like it. edge: what `validation_edge` gives.
    """
    if clip["motion"] < rules.min_motion:
        return f"moves too little: {clip['motion']:.4f} a second"
    if copy:
        return f"looks like another: {copy}"
    return "validation" if hash_to_share(clip["checksum"]) < edge else "train"


def reason_kind(reason: str) -> str:
    """The general part of why a clip is dropped, without its numbers or names."""
    return reason.partition(":")[0]


def hash_to_share(digest: str) -> float:
    """A number in [0, 1) from a hexadecimal hash."""
    return int(digest[:13], 16) / 16**13


def validation_edge(shares, held: float) -> float:
    """Sources with a `hash_to_share` below this number are for validation.

    It is `held`, or more so that one of several sources is below it; 0 for one source.
    """
    shares = sorted(set(shares))
    if not held or len(shares) < 2:
        return 0.0
    return max(held, (shares[0] + shares[1]) / 2)
