"""Sources of V-JEPA: clips of a data set by name, with masks."""

from core.data import source_names
from core.data.bodies.world import World
from core.data.clips import View
from core.data.decoding.decode_baseline import seconds_per_clip
from core.data.loading.pipeline import STALL_S, make_source
from core.section import Section

CLIPS = 128  # decoded by the bench
VALIDATION = 1 << 20  # added to the seed: worlds that training never sees


def make_records(
    split,
    *,
    seed,
    source,
    frames,
    size,
    fps,
    scale,
    aspect,
    flip,
    crops,
    planar,
    level,
    bodies,
    workers,
    max_bad_share,
    frame_tolerance=0.5,
    stall_s=STALL_S,
):
    """(records of `split`, keywords of `make_source`), from the config's data section.

    split: "train" has random clips of the source, "validation" central ones; "world" and
    "world_validation" are labelled clips of the embedded world in the same format, for
    probes.

    Args:
      source: a name as in core/data/source_names.py.
      frames: of a clip, `fps` of them per second, size x size pixels each.
      scale, aspect, flip: ranges of the random crop, and whether it is mirrored.
      crops: clips cut from a stretch of video that is decoded once.
      planar: whether pictures stay YUV 4:2:0.
      level, bodies: of the embedded world.
      frame_tolerance: how far a frame of a LeRobot camera may be from the time stamp of its
        step, in frame intervals.
      workers, max_bad_share, stall_s: of `make_source`.

    Raises:
      ValueError: for fields that the source cannot follow.
    """
    clip = {"frames": frames, "fps": fps, "size": size}
    pipeline = {"seed": seed, "workers": workers, "max_bad_share": max_bad_share}
    pipeline["stall_s"] = stall_s
    shift = VALIDATION if split in ("validation", "world_validation") else 0
    world = World(seed + shift, level=level, bodies=bodies, **clip)
    if any(
        name == source_names.WORLD for _, name in source_names.mixture_terms(source)
    ):
        for name, value, usual in (("crops", crops, 1), ("planar", planar, False)):
            if value != usual:
                raise ValueError(
                    f"data.{name} is {value}, but the world decodes nothing; use {usual}"
                )
    if source == source_names.WORLD or split not in ("train", "validation"):
        return world, pipeline | {"shuffle": False}
    kind = "random" if split == "train" else "center"
    more = {"crops": crops, "planar": planar} if split == "train" else {}
    view = View(scale=scale, aspect=aspect, flip=flip, kind=kind, **clip, **more)
    records = source_names.videos(source, split, view, lambda: world, frame_tolerance)
    return records, pipeline | {"crops": view.crops}


def make_train_source(split, shard, folder=None, *, masker, batch, seed, data: Section):
    """core.method.Source of endless batches of clips and masks; ignores `folder`.

    video: uint8 [b, T, H, W, 3], or [b, T, 3 H / 2, W] if planar; for the rest see Masker.
    """
    records, pipeline = data.into(make_records, split=split, seed=seed)
    transform = VideoWithMasks(masker)
    return make_source(
        records, batch=batch, shard=shard, transform=transform, **pipeline
    )


def make_benches(*, seed, data: Section) -> dict:
    """{"decode": seconds per clip of decoding alone}; empty unless one source has videos."""
    source = data["source"]
    mixture = len(source_names.mixture_terms(source)) > 1
    undecoded = source == source_names.WORLD or source.startswith(
        ("images:", "camera:")
    )
    if mixture or undecoded:
        return {}

    def decode():
        records, _ = data.into(make_records, split="train", seed=seed)
        seconds = seconds_per_clip(records, records.view, clips=CLIPS)
        return {"decode_seconds_per_clip": seconds / records.view.crops}

    return {"decode": decode}


class VideoWithMasks:
    """Maps a sample to its video and masks; drops labels, which pretraining must not see."""

    def __init__(self, masker):
        self.masker = masker

    def __call__(self, item, *, position, rng):
        return self.masker({"video": item["video"]}, position, rng)
