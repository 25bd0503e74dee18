"""Prepares a data set from start to end: cut, assign splits, write shards, report."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import NamedTuple

from core.base.files import expand, read_json
from core.base.locks import hold_lock
from core.base.text import duration, printable_name
from core.data.formats.prepared import PreparedPieces
from core.data.tfds import Shards, is_prepared
from core.prepare import (
    contact_sheet,
    cut_trajectories,
    report,
    trajectory_pieces,
    video_clips,
)
from core.prepare.parallel_work import mark_work_folder

NAME = re.compile(r"[a-z][a-z0-9_]*")
MB = 2**20


class Kind(NamedTuple):
    """The functions that differ between videos and trajectories."""

    cut: Callable  # (plan, folder, workers=, progress=) -> facts by name
    select: Callable  # (plan, facts) -> (report, further arguments of `build`)
    report_lines: Callable  # report -> lines of text
    build: Callable  # (plan=, work=, name=, data_dir=, ...) -> builder
    build_on_beam: Callable  # (plan, name=, data_dir=) -> builder that runs on Beam
    draw: Callable  # folder of the version -> contact sheet [H, W, 3]


def prepare(kind: Kind, plan, to: str, *, workers: int, shard_mb: int, say=print):
    """Cut recordings, choose what to keep, write shards of array_record, and report.

    plan: a VideoPlan or TrajectoryPlan. to: folder of the new data set. workers: processes.
    shard_mb: largest size of a file. say: prints a line. Pieces are kept in `to`.work until
    the end, so that the same call continues after a kill.

    Returns the folder of the written version. Raises ValueError if `to` is a data set
    already, its name is not valid, another process prepares it, or nothing is left.
    """
    to = destination(to, plan.place)
    with hold_target(to, say) as (work, is_new):
        if is_new or not holds_plan(to, plan):  # else killed, perhaps at the very end
            check_is_new(to)
        facts = kind.cut(plan, work, workers=workers, progress=Progress(say))
        found, known = kind.select(plan, facts)
        if not any(numbers["bytes"] for numbers in found["splits"].values()):
            raise ValueError(
                f"nothing of {plan.place} is left: {'; '.join(kind.report_lines(found))}"
            )
        builder = kind.build(plan=plan, work=work, **known, **builder_place(to))
        write_shards(builder, to, shard_mb)
        folder = pathlib.Path(builder.data_dir)
        report.write_report(folder, found, kind.draw(folder))
        shutil.rmtree(work)
    for line in kind.report_lines(found):
        say(line)
    say(f"{folder}: --config.data.source={to}")
    return folder


def select_clips(plan, facts):
    """(report, further arguments of the builder) of what `cut_videos` found."""
    known = video_clips.all_clips(facts)
    splits = video_clips.assign_clip_splits(known, plan.rules)
    found = report.clip_report(facts, splits, plan.files().passed_over)
    return found, {"known": known, "splits": splits}


def select_recordings(plan, facts):
    """(report, further arguments of the builder) of what `cut_recordings` found."""
    form, splits = cut_trajectories.assign_recording_splits(plan, facts)
    about = trajectory_pieces.describe_arrays(plan)
    known = {"facts": facts, "splits": splits, "form": form, "about": about}
    return report.trajectory_report(facts, splits, form), known


def build_videos(**known):
    from core.prepare.videos import Videos

    return Videos(**known)


def build_trajectories(**known):
    from core.prepare.trajectories import Trajectories

    return Trajectories(**known)


def build_videos_on_beam(plan, **place):
    from core.prepare.beam_videos import BeamVideos

    return BeamVideos(plan=plan, **place)


def build_trajectories_on_beam(plan, **place):
    from core.prepare.beam_trajectories import BeamTrajectories

    form = trajectory_pieces.predict_form(plan)
    about = trajectory_pieces.describe_arrays(plan)
    return BeamTrajectories(plan=plan, form=form, about=about, **place)


VIDEOS = Kind(
    video_clips.cut_videos,
    select_clips,
    report.clip_report_lines,
    build_videos,
    build_videos_on_beam,
    lambda folder: contact_sheet.draw_clips(Shards(str(folder), "train")),
)
TRAJECTORIES = Kind(
    cut_trajectories.cut_recordings,
    select_recordings,
    report.trajectory_report_lines,
    build_trajectories,
    build_trajectories_on_beam,
    lambda folder: contact_sheet.draw_recordings(
        PreparedPieces(Shards(str(folder), "train"))
    ),
)


def prepare_on_beam(
    kind: Kind, plan, to: str, options: str, *, shard_mb: int, say=print
):
    """`prepare` as an Apache Beam pipeline. options: Beam's flags, separated by commas."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ModuleNotFoundError as error:
        raise ValueError(
            "--beam needs Apache Beam; run pip install -r requirements-beam.txt"
        ) from error
    to = destination(to, plan.place)
    beam = PipelineOptions([f"--{option}" for option in options.split(",") if option])
    with hold_target(to, say) as (work, _):
        check_is_new(to)
        builder = kind.build_on_beam(plan, **builder_place(to))
        write_shards(builder, to, shard_mb, beam)
        folder = pathlib.Path(builder.data_dir)
        report.write_report(folder, builder.counts, kind.draw(folder))
        shutil.rmtree(work)
    for name, count in sorted(builder.counts.items()):
        say(f"{name}: {count}")
    say(f"{folder}: --config.data.source={to}")
    return folder


def destination(to, place: str) -> pathlib.Path:
    """The absolute path of a new data set.

    place: of the recordings. Raises ValueError if the name is not valid or not UTF-8, or if
    this is the place itself.
    """
    to = expand(to).absolute()
    try:
        str(to).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"--to is {printable_name(str(to))}, whose name is not UTF-8; array_record "
            "files need a folder whose name is"
        ) from None
    if to.exists() and expand(place).exists() and to.samefile(expand(place)):
        raise ValueError(
            f"--to is {to}, which holds the recordings; choose another folder"
        )
    if not NAME.fullmatch(to.name):
        raise ValueError(
            f"{to.name!r} is not a valid name of a data set; use lower-case letters, "
            "digits and _"
        )
    return to


@contextlib.contextmanager
def hold_target(to, say) -> Iterator[tuple[pathlib.Path, bool]]:
    """Hold the lock of a target; yields its work folder and whether that is new.

    It is new if it holds no finished jobs, and deleted if it is left so. Raises
    ValueError, naming the holder, if another process prepares the target.
    """
    work = to.with_name(f"{to.name}.work")
    mark = mark_work_folder(work)
    with hold_lock(mark, f"is preparing {to}") as has_locks:
        if not has_locks:
            say(
                f"{to} lies on a file system without locks: let no other process prepare it"
            )
        try:
            yield work, os.listdir(work) == [mark.name]
        finally:
            if work.exists() and os.listdir(work) == [mark.name]:
                shutil.rmtree(work)


def holds_plan(to, plan) -> bool:
    """Whether the data set at this path was made by this plan."""
    wanted = json.loads(json.dumps(dataclasses.asdict(plan)))
    return any(
        read_json(path).get("plan") == wanted for path in to.glob("*/metadata.json")
    )


def check_is_new(to):
    """Raise ValueError if there is a data set at this path."""
    if is_prepared(to):
        raise ValueError(f"{to} exists already; choose another name, or delete it")


def builder_place(to) -> dict:
    """The arguments of a builder that writes to this path."""
    return {"name": to.name, "data_dir": str(to.parent)}


def write_shards(builder, to, shard_mb, beam_options=None):
    """Let a builder write its shards, each of at most `shard_mb` MiB."""
    import tensorflow_datasets as tfds

    for incomplete in to.glob("incomplete.*"):  # from a killed run
        shutil.rmtree(incomplete)
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(
        min_shard_size=shard_mb * MB // 2,
        max_shard_size=shard_mb * MB,
        beam_options=beam_options,
        try_download_gcs=False,
    )
    # Its output is about downloads, and there are none.
    with tempfile.TemporaryDirectory() as empty, redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=empty, download_config=config)


class Progress:
    """Reports recordings done and the time left, at most every `seconds` seconds."""

    def __init__(self, say, seconds=10.0):
        self.say, self.seconds = say, seconds
        self.start = self.reported = time.monotonic()
        self.first, self.ended = None, False

    def __call__(self, done, count):
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if self.ended or (now < self.reported + self.seconds and done < count):
            return
        self.ended = done == count
        self.reported = now
        rate = (done - self.first) / max(now - self.start, 1e-3)
        left = f"  ETA {duration((count - done) / rate)}" if rate else ""
        self.say(f"cut {done}/{count} recordings{left}")
