"""Turn a folder or list of videos into a data set of short clips that decode fast."""

import dataclasses

from absl import flags

from launch import cli

FROM = flags.DEFINE_string(
    "from", None, "Folder of videos, or a list of them: text, CSV or Parquet"
)
TO = flags.DEFINE_string("to", None, "Folder of the new data set")
SIZE = flags.DEFINE_integer("size", 256, "Pixels of the short side")
FPS = flags.DEFINE_float("fps", 15.0, "Frames per second, where there are more")
SECONDS = flags.DEFINE_float("seconds", 10.0, "Length of a clip")
MIN_SECONDS = flags.DEFINE_float("min_seconds", 2.0, "Of the last clip of a video")
CRF = flags.DEFINE_integer("crf", 20, "Quality of H.264; lower is better and larger")
KEYFRAME = flags.DEFINE_integer("keyframe", 16, "Frames from one keyframe to the next")
MIN_MOTION = flags.DEFINE_float(
    "min_motion", 0.002, "Change of brightness per second below which a clip is dropped"
)
NEAR = flags.DEFINE_integer(
    "near", 8, "Bits of 192 by which near duplicates differ at most; -1 keeps them"
)
HELD = flags.DEFINE_float("held", 0.05, "Share of the videos to validate on")
LICENCE = flags.DEFINE_string(
    "licence", "", "Licence of the videos, kept with each clip"
)
WORKERS = flags.DEFINE_integer("workers", 0, "Processes that cut; 0: one per core")
SHARD_MB = flags.DEFINE_integer("shard_mb", 512, "Size of a file at most")
BEAM = flags.DEFINE_string(
    "beam", None, "Run on Apache Beam with these options, such as runner=DirectRunner"
)


def main():
    if not (FROM.value and TO.value):
        raise ValueError("--from=VIDEOS and --to=DATASET are both needed")
    from core.prepare import run
    from core.prepare.clips import Plan, Rules
    from core.prepare.cut import Recipe
    from core.processes import cpus

    values = {name: flags.FLAGS[name].value for name in flags.FLAGS}

    def part(kind):
        return kind(**{f.name: values[f.name] for f in dataclasses.fields(kind)})

    plan = Plan(FROM.value, part(Recipe), part(Rules), LICENCE.value)
    if BEAM.value is not None:
        run.prepare_on_beam(plan, TO.value, BEAM.value, shard_mb=SHARD_MB.value)
        return
    workers = WORKERS.value or cpus()
    run.prepare(plan, TO.value, workers=workers, shard_mb=SHARD_MB.value)


if __name__ == "__main__":
    cli.run(main)
