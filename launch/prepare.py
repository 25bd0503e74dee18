"""Prepare a data set: cut videos into clips, or trajectories into pieces, for fast reading."""

import dataclasses

from absl import flags

from launch import cli

FROM = flags.DEFINE_string(
    "from",
    None,
    "Recordings: a folder of videos, a list of videos (text, CSV or Parquet), or "
    "trajectories (a replay's folder, RLDS, LeRobot or Minari)",
)
TO = flags.DEFINE_string(
    "to", None, "Folder of the new data set; with --show, a PNG file"
)
SHOW = flags.DEFINE_string(
    "show", None, "Draw this data set instead; a name as in --config.data.source"
)
CONFIG = cli.define_config(
    "With --show, also draw a batch as the method of this config reads it; with --encoder, "
    "the config whose networks the weights belong to"
)
SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Pixels of the short side of videos, 256 by default; or of both sides of images of "
    "trajectories, unchanged by default",
)
HELD = flags.DEFINE_float(
    "held", 0.05, "Share of the recordings for validation, 0 to 1"
)
CRF = flags.DEFINE_integer(
    "crf", 23, "Quality of H.264; lower is better, with larger files"
)
LICENCE = flags.DEFINE_string(
    "licence", "", "License of the recordings, stored with each example"
)
WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0: one per CPU core")
SHARD_MB = flags.DEFINE_integer(
    "shard_mb", 512, "Largest size of a file of the data set, in MiB"
)
BEAM = flags.DEFINE_string(
    "beam",
    None,
    "Run on Apache Beam with these comma-separated options, such as runner=DirectRunner",
)

# For videos.
FPS = flags.DEFINE_float(
    "fps", 8.0, "Most frames per second of a clip; fewer are faster to read"
)
SECONDS = flags.DEFINE_float("seconds", 10.0, "Seconds per clip")
MIN_SECONDS = flags.DEFINE_float(
    "min_seconds", 2.0, "Least length of the last clip of a video"
)
KEYFRAME = flags.DEFINE_integer("keyframe", 16, "Frames from one keyframe to the next")
MIN_MOTION = flags.DEFINE_float(
    "min_motion",
    0.002,
    "Drop clips whose brightness (0 to 1) changes less than this per second",
)
NEAR = flags.DEFINE_integer(
    "near",
    8,
    "Drop clips whose hash differs from another in at most so many of 192 bits; -1: never",
)
VIDEO_FLAGS = ("fps", "seconds", "min_seconds", "keyframe", "min_motion", "near")

# For trajectories.
RATE = flags.DEFINE_float(
    "rate", 0.0, "Resample to so many steps per second; 0: do not resample"
)
ACTIONS = flags.DEFINE_enum(
    "actions",
    "last",
    ["last", "sum", "mean"],
    "With --rate, how to combine several actions: last for target positions, sum for "
    "displacements, mean for velocities",
)
CLOCK = flags.DEFINE_float(
    "clock", 0.0, "Steps per second of recordings without time stamps"
)
KEEP = flags.DEFINE_list(
    "keep", [], "Arrays to keep, as NAME or NEW=NAME; all by default"
)
UNITS = flags.DEFINE_list("units", [], "Units of arrays, as NAME=UNIT")
FRAME_TOLERANCE = flags.DEFINE_float(
    "frame_tolerance",
    0.5,
    "How far the frame of a LeRobot step may be from its time stamp, in frame intervals",
)
ENCODER = flags.DEFINE_string(
    "encoder",
    None,
    "Store features of this frozen encoder in place of pictures: a run, or with --config "
    "weights as init_from takes",
)
PIECE = flags.DEFINE_integer("piece", 32, "Most steps per record")
TRAJECTORY_FLAGS = (
    "rate",
    "actions",
    "clock",
    "keep",
    "units",
    "piece",
    "frame_tolerance",
    "encoder",
)


def main():
    """Prepare --from into --to, or draw --show."""
    if SHOW.value:
        draw_data_set()
        return
    if CONFIG.value is not None and not ENCODER.value:
        raise ValueError(
            "--config is only used with --show and --encoder; a prepared data set serves all "
            "methods"
        )
    if not (FROM.value and TO.value):
        raise ValueError("--from=RECORDINGS and --to=DATASET are both needed")
    from core.base.processes import usable_cpus
    from core.data import source_names
    from core.prepare import run

    is_steps = source_names.is_trajectories(FROM.value)
    check_flags(VIDEO_FLAGS if is_steps else TRAJECTORY_FLAGS, is_steps)
    kind = run.TRAJECTORIES if is_steps else run.VIDEOS
    if ENCODER.value:
        prepare_features()
        return
    plan = trajectory_plan() if is_steps else video_plan()
    if BEAM.value is not None:
        run.prepare_on_beam(kind, plan, TO.value, BEAM.value, shard_mb=SHARD_MB.value)
        return
    workers = WORKERS.value or usable_cpus()
    run.prepare(kind, plan, TO.value, workers=workers, shard_mb=SHARD_MB.value)


def prepare_features():
    """Prepare trajectories with features of --encoder in place of pictures."""
    import functools
    import tempfile

    from core.evals import evaluate
    from core.parallel.weight_digest import weight_digest
    from core.prepare import cut_trajectories, run
    from core.prepare.encoded import make_encode
    from core.runs import restore

    for name in ("beam", "held", "workers"):
        if flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} has no effect with --encoder: this process encodes, and the "
                "recordings keep their splits"
            )
    if CONFIG.value is None:
        opened = restore.open_run(ENCODER.value)
    else:
        opened = restore.open_weights(
            CONFIG.value, ENCODER.value, tempfile.gettempdir()
        )
    frozen = opened.method.frozen
    if frozen is None or frozen.still is None:
        raise ValueError(
            f"--encoder is {ENCODER.value}, whose method encodes no pictures; expected one "
            "such as a run of jepa.pretrain"
        )
    with evaluate.open_state(opened) as state:
        weights = next(iter(frozen.weights.values()))(state)
        plan = trajectory_plan(encoder=weight_digest(weights), size=frozen.size)
        encode = make_encode(frozen.still, weights, size=plan.size)
        cut = functools.partial(cut_trajectories.cut_recordings, encode=encode)
        kind = run.TRAJECTORIES._replace(cut=cut)
        run.prepare(kind, plan, TO.value, workers=1, shard_mb=SHARD_MB.value)


def draw_data_set():
    """Write the picture of --show to --to."""
    from core.base.pictures import encode_png
    from core.base.places import expand_home
    from core.prepare.show import show

    path = expand_home(TO.value or "contact_sheet.png")
    if path.suffix != ".png":
        raise ValueError(f"--to is {path}; with --show, expected a .png file")
    picture = show(SHOW.value, CONFIG.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))
    print(f"wrote a picture of {SHOW.value} to {path}")


def check_flags(others, is_steps):
    """Raise ValueError if a flag is given that has no effect on these recordings."""
    for name in others:
        if flags.FLAGS[name].present:
            there, meant = ("trajectories", "videos")[:: 1 if is_steps else -1]
            raise ValueError(f"{FROM.value} holds {there}; --{name} is for {meant}")


def from_flags(kind, **values):
    """A dataclass of type `kind`: fields from flags of the same names, and `values`."""
    known = {x.name for x in dataclasses.fields(kind)}
    given = {name: flags.FLAGS[name].value for name in flags.FLAGS if name in known}
    return kind(**given | values)


def video_plan():
    from core.prepare.cut_video import Recipe
    from core.prepare.video_clips import Rules, VideoPlan

    size = 256 if SIZE.value is None else SIZE.value
    return VideoPlan(
        FROM.value, from_flags(Recipe, size=size), from_flags(Rules), LICENCE.value
    )


def trajectory_plan(*, encoder="", size=0):
    """The plan of the flags; `size` where --size is not given."""
    from core.prepare.trajectory_pieces import TrajectoryPlan

    keep = tuple(split_pair("keep", x if "=" in x else f"{x}={x}") for x in KEEP.value)
    units = tuple(split_pair("units", x) for x in UNITS.value)
    return from_flags(
        TrajectoryPlan,
        place=FROM.value,
        size=SIZE.value or size,
        keep=keep,
        units=units,
        encoder=encoder,
    )


def split_pair(flag, text):
    """Split NAME=VALUE into (NAME, VALUE). Raises ValueError."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--{flag} has {text!r}; expected NAME=VALUE")
    return name, value


if __name__ == "__main__":
    cli.run(main)
