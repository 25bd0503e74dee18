"""Prepares a data set from end to end, and goes on where it was killed."""

import io
import pathlib
import re
import shutil
import tempfile
import time
from contextlib import redirect_stdout

from core.data.tfds import is_prepared
from core.prepare import clips, report
from core.prepare.clips import Plan
from core.text import duration

NAME = re.compile(r"[a-z][a-z0-9_]*")
MB = 2**20


def prepare(plan: Plan, to: str, *, workers: int, shard_mb: int, say=print):
    """Cut videos, decide which clips to keep, write them as shards, and report.

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
    facts = clips.cut_here(plan, work, workers=workers, progress=Progress(say))
    known = clips.clips_of(facts)
    fates = clips.decide(known, plan.rules)
    found = report.report(facts, fates)
    if not set(clips.SPLITS) & set(fates.values()):
        raise ValueError(
            f"nothing of {plan.place} is left: {'; '.join(report.lines(found))}"
        )
    from core.prepare.videos import Videos  # and with it tensorflow-datasets

    builder = build(Videos, plan, to, shard_mb, known=known, fates=fates, work=work)
    folder = pathlib.Path(builder.data_dir)
    report.write(folder, found)
    shutil.rmtree(work)
    for line in report.lines(found):
        say(line)
    say(f"{folder}: --config.data.source={to}")
    return folder


def prepare_on_beam(plan: Plan, to: str, options: str, *, shard_mb: int, say=print):
    """The same by a pipeline of Apache Beam; options: its flags, separated by commas."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions

        from core.prepare.beam import BeamVideos
    except ModuleNotFoundError as error:
        raise ValueError(
            "--beam needs Apache Beam; run pip install -r requirements-beam.txt"
        ) from error
    to = destination(to)
    refuse_old(to)
    beam = PipelineOptions([f"--{option}" for option in options.split(",") if option])
    builder = build(BeamVideos, plan, to, shard_mb, beam_options=beam)
    folder = pathlib.Path(builder.data_dir)
    report.write(folder, builder.counts)
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


def build(kind, plan, to, shard_mb, *, beam_options=None, **more):
    """Write the shards of a plan by a builder of this kind; gives it."""
    import tensorflow_datasets as tfds

    for half in to.glob("incomplete.*"):  # of a killed run
        shutil.rmtree(half)
    tfds.disable_progress_bar()
    builder = kind(name=to.name, plan=plan, data_dir=str(to.parent), **more)
    config = tfds.download.DownloadConfig(
        min_shard_size=shard_mb * MB // 2,
        max_shard_size=shard_mb * MB,
        beam_options=beam_options,
        try_download_gcs=False,
    )
    # What it says is about downloads, of which there are none.
    with tempfile.TemporaryDirectory() as nothing, redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=nothing, download_config=config)
    return builder


class Progress:
    """Tells now and then how many videos are done, and when all will be."""

    def __init__(self, say, seconds=10.0):
        self.say, self.seconds = say, seconds
        self.begin = self.told = time.monotonic()
        self.first = None

    def __call__(self, done, count):
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if now < self.told + self.seconds and done < count:
            return
        self.told, rate = now, (done - self.first) / max(now - self.begin, 1e-3)
        left = f"  ETA {duration((count - done) / rate)}" if rate else ""
        self.say(f"cut {done}/{count} videos{left}")
