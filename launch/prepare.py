"""Turn videos into short clips, or recorded trajectories into pieces, that are read fast."""

import dataclasses

from absl import flags

from launch import cli

FROM = flags.DEFINE_string(
    "from",
    None,
    "Folder of videos, a list of them (text, CSV or Parquet), or trajectories: a replay's "
    "folder, RLDS, LeRobot or Minari",
)
TO = flags.DEFINE_string(
    "to", None, "Folder of the new data set; of --show, a PNG file"
)
SHOW = flags.DEFINE_string(
    "show", None, "Instead draw this data set, a name as --config.data.source has it"
)
CONFIG = cli.define_config(
    "With --show, a config whose method draws a batch of it, too: masks, sequences"
)
SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Pixels of the short side of videos, 256 unless told; of both sides of trajectories' "
    "pictures, which else stay as they are",
)
HELD = flags.DEFINE_float("held", 0.05, "Share of the recordings to validate on")
CRF = flags.DEFINE_integer("crf", 23, "Quality of H.264; lower is better and larger")
LICENCE = flags.DEFINE_string(
    "licence", "", "Licence of the recordings, kept with each example"
)
WORKERS = flags.DEFINE_integer("workers", 0, "Processes that cut; 0: one per core")
SHARD_MB = flags.DEFINE_integer("shard_mb", 512, "Size of a file at most")
BEAM = flags.DEFINE_string(
    "beam", None, "Run on Apache Beam with these options, such as runner=DirectRunner"
)

# Of videos.
FPS = flags.DEFINE_float(
    "fps", 8.0, "Frames per second, where there are more; fewer are faster to read"
)
SECONDS = flags.DEFINE_float("seconds", 10.0, "Length of a clip")
MIN_SECONDS = flags.DEFINE_float("min_seconds", 2.0, "Of the last clip of a video")
KEYFRAME = flags.DEFINE_integer("keyframe", 16, "Frames from one keyframe to the next")
MIN_MOTION = flags.DEFINE_float(
    "min_motion", 0.002, "Change of brightness per second below which a clip is dropped"
)
NEAR = flags.DEFINE_integer(
    "near", 8, "Bits of 192 by which near duplicates differ at most; -1 keeps them"
)
OF_VIDEOS = ("fps", "seconds", "min_seconds", "keyframe", "min_motion", "near")

# Of trajectories.
RATE = flags.DEFINE_float(
    "rate", 0.0, "Steps per second to bring them to; 0: as they are"
)
ACTIONS = flags.DEFINE_enum(
    "actions",
    "last",
    ["last", "sum", "mean"],
    "What several actions become as one: last for places to go to, sum for ways to go, "
    "mean for speeds",
)
CLOCK = flags.DEFINE_float("clock", 0.0, "Steps per second of those that tell no time")
KEEP = flags.DEFINE_list("keep", [], "What to keep, as NAME or NEW=NAME; else all")
UNITS = flags.DEFINE_list("units", [], "Units of arrays, as NAME=UNIT")
PIECE = flags.DEFINE_integer("piece", 32, "Steps of a record at most")
OF_TRAJECTORIES = ("rate", "actions", "clock", "keep", "units", "piece")


def main():
    if SHOW.value:
        draw()
        return
    if CONFIG.value is not None:
        raise ValueError(
            "--config is for --show; data sets are prepared for all methods"
        )
    if not (FROM.value and TO.value):
        raise ValueError("--from=RECORDINGS and --to=DATASET are both needed")
    from core.base.processes import usable_cpus
    from core.data import source_names
    from core.prepare import run

    is_steps = source_names.is_trajectories(FROM.value)
    refuse(OF_VIDEOS if is_steps else OF_TRAJECTORIES, is_steps)
    kind = run.TRAJECTORIES if is_steps else run.VIDEOS
    plan = step_plan() if is_steps else video_plan()
    if BEAM.value is not None:
        run.prepare_on_beam(kind, plan, TO.value, BEAM.value, shard_mb=SHARD_MB.value)
        return
    workers = WORKERS.value or usable_cpus()
    run.prepare(kind, plan, TO.value, workers=workers, shard_mb=SHARD_MB.value)


def draw():
    """What --show asks for."""
    import pathlib

    from core.base.pictures import encode_png
    from core.prepare.show import show

    path = pathlib.Path(TO.value or "contact_sheet.png")
    if path.suffix != ".png":
        raise ValueError(f"--to is {path}; --show writes a .png file")
    picture = show(SHOW.value, CONFIG.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))
    print(f"{SHOW.value} is drawn in {path}")


def refuse(others, is_steps):
    """Flags that would do nothing."""
    for name in others:
        if flags.FLAGS[name].present:
            there, meant = ("trajectories", "videos")[:: 1 if is_steps else -1]
            raise ValueError(f"{FROM.value} holds {there}; --{name} is for {meant}")


def part(kind, **values):
    """A dataclass from the flags that are called like its fields."""
    known = {x.name for x in dataclasses.fields(kind)}
    told = {name: flags.FLAGS[name].value for name in flags.FLAGS if name in known}
    return kind(**told | values)


def video_plan():
    from core.prepare.cut_video import Recipe
    from core.prepare.video_clips import Rules, VideoPlan

    size = 256 if SIZE.value is None else SIZE.value
    return VideoPlan(FROM.value, part(Recipe, size=size), part(Rules), LICENCE.value)


def step_plan():
    from core.prepare.trajectory_pieces import TrajectoryPlan

    keep = tuple(pair("keep", x if "=" in x else f"{x}={x}") for x in KEEP.value)
    units = tuple(pair("units", x) for x in UNITS.value)
    return part(
        TrajectoryPlan, place=FROM.value, size=SIZE.value or 0, keep=keep, units=units
    )


def pair(flag, text):
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--{flag} has {text!r}; expected NAME=VALUE")
    return name, value


if __name__ == "__main__":
    cli.run(main)
