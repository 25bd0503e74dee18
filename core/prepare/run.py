"""Prepares a data set from end to end, and goes on where it was killed."""

import io
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import NamedTuple

from core.base.text import duration
from core.data.formats.prepared import PreparedPieces
from core.data.tfds import Shards, is_prepared
from core.prepare import clips, contact_sheet, cut_episodes, episodes, report

NAME = re.compile(r"[a-z][a-z0-9_]*")
MB = 2**20


class Kind(NamedTuple):
    """What differs between sorts of recordings."""

    cut_here: Callable  # (plan, folder, workers=, progress=) -> facts by name
    judge: Callable  # (plan, facts) -> (report, what else the builder takes)
    lines: Callable  # (report) -> sentences
    build: Callable  # (what judge gives, ...) -> builder
    pipe: Callable  # (plan, ...) -> the same as a pipeline of Apache Beam
    sheet: Callable  # (folder of the version) -> picture


def prepare(kind: Kind, plan, to: str, *, workers: int, shard_mb: int, say=print):
    """Cut recordings, decide what to keep, write it as shards, and report.

    to: the new data set's folder. What is cut lies in a folder beside it until all is
    done, so that the same call goes on after a kill.

    Returns:
      the folder of the version written.
    """
    to = destination(to)
    work = to.with_name(f"{to.name}.work")
    if not work.exists():  # else it may have been killed at the very end
        refuse_old(to)
    work.mkdir(parents=True, exist_ok=True)
    facts = kind.cut_here(plan, work, workers=workers, progress=Progress(say))
    found, known = kind.judge(plan, facts)
    if not any(numbers["bytes"] for numbers in found["splits"].values()):
        raise ValueError(
            f"nothing of {plan.place} is left: {'; '.join(kind.lines(found))}"
        )
    builder = kind.build(plan=plan, work=work, **known, **place_of(to))
    write(builder, to, shard_mb)
    folder = pathlib.Path(builder.data_dir)
    report.write(folder, found, kind.sheet(folder))
    shutil.rmtree(work)
    for line in kind.lines(found):
        say(line)
    say(f"{folder}: --config.data.source={to}")
    return folder


def judge_clips(plan, facts):
    known = clips.clips_of(facts)
    fates = clips.decide(known, plan.rules)
    return report.of_clips(facts, fates), {"known": known, "fates": fates}


def judge_steps(plan, facts):
    form, fates = cut_episodes.judge(plan, facts)
    known = {"facts": facts, "fates": fates, "form": form}
    return report.of_steps(facts, fates, form), known | {"about": episodes.about(plan)}


def build_videos(**known):
    from core.prepare.videos import Videos

    return Videos(**known)


def build_steps(**known):
    from core.prepare.trajectories import Trajectories

    return Trajectories(**known)


def pipe_videos(plan, **known):
    from core.prepare.beam import BeamVideos

    return BeamVideos(plan=plan, **known)


def pipe_steps(plan, **known):
    from core.prepare.beam_steps import BeamTrajectories

    form, about = episodes.foretold_form(plan), episodes.about(plan)
    return BeamTrajectories(plan=plan, form=form, about=about, **known)


VIDEOS = Kind(
    clips.cut_here,
    judge_clips,
    report.lines_of_clips,
    build_videos,
    pipe_videos,
    lambda folder: contact_sheet.of_clips(Shards(str(folder), "train")),
)
TRAJECTORIES = Kind(
    cut_episodes.cut_here,
    judge_steps,
    report.lines_of_steps,
    build_steps,
    pipe_steps,
    lambda folder: contact_sheet.of_steps(PreparedPieces(Shards(str(folder), "train"))),
)


def prepare_on_beam(
    kind: Kind, plan, to: str, options: str, *, shard_mb: int, say=print
):
    """The same by a pipeline of Apache Beam; options: its flags, separated by commas."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ModuleNotFoundError as error:
        raise ValueError(
            "--beam needs Apache Beam; run pip install -r requirements-beam.txt"
        ) from error
    to = destination(to)
    refuse_old(to)
    beam = PipelineOptions([f"--{option}" for option in options.split(",") if option])
    builder = kind.pipe(plan, **place_of(to))
    write(builder, to, shard_mb, beam)
    folder = pathlib.Path(builder.data_dir)
    report.write(folder, builder.counts, kind.sheet(folder))
    for name, count in sorted(builder.counts.items()):
        say(f"{name}: {count}")
    say(f"{folder}: --config.data.source={to}")
    return folder


def destination(to) -> pathlib.Path:
    """The folder of a data set that is to be."""
    to = pathlib.Path(to).expanduser().absolute()
    if not NAME.fullmatch(to.name):
        raise ValueError(
            f"{to.name!r} is no name of a data set; use small letters, digits and _"
        )
    return to


def refuse_old(to):
    if is_prepared(to):
        raise ValueError(f"{to} is there already; give another name, or delete it")


def place_of(to) -> dict:
    """What a builder must know of where its data set is to be."""
    return {"name": to.name, "data_dir": str(to.parent)}


def write(builder, to, shard_mb, beam_options=None):
    """Let a builder write its shards."""
    import tensorflow_datasets as tfds

    for half in to.glob("incomplete.*"):  # of a killed run
        shutil.rmtree(half)
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(
        min_shard_size=shard_mb * MB // 2,
        max_shard_size=shard_mb * MB,
        beam_options=beam_options,
        try_download_gcs=False,
    )
    # What it says is about downloads, of which there are none.
    with tempfile.TemporaryDirectory() as nothing, redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=nothing, download_config=config)


class Progress:
    """Tells now and then how many videos are done, and when all will be."""

    def __init__(self, say, seconds=10.0):
        self.say, self.seconds = say, seconds
        self.begin = self.told = time.monotonic()
        self.first, self.ended = None, False

    def __call__(self, done, count):
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if self.ended or (now < self.told + self.seconds and done < count):
            return
        self.ended = done == count
        self.told, rate = now, (done - self.first) / max(now - self.begin, 1e-3)
        left = f"  ETA {duration((count - done) / rate)}" if rate else ""
        self.say(f"cut {done}/{count} recordings{left}")
