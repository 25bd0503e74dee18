"""What V-JEPA reads: clips of a data set by name, and masks for them."""

from core.data import source_names
from core.data.bodies.world import World
from core.data.clips import View
from core.data.decode_baseline import seconds_per_clip
from core.data.pipeline import make_source

CLIPS = 128  # whose decoding is timed
HELD_OUT = 1 << 20  # added to the seed: clips that training never sees


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
):
    """(clips of `split`, keywords of the pipeline), from the config's data section.

    source: a name as in core/data/source_names.py. "train" gives its random clips,
    "validation" its central ones; "world" and "world_validation" give labelled clips of the
    embedded world in the same format, for probes.
    """
    clip = {"frames": frames, "fps": fps, "size": size}
    pipeline = {"seed": seed, "workers": workers, "max_bad_share": max_bad_share}
    held = HELD_OUT if split in ("validation", "world_validation") else 0
    world = World(seed + held, level=level, bodies=bodies, **clip)
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
    records = source_names.videos(source, split, view, lambda: world)
    return records, pipeline | {"crops": view.crops}


def make_train_source(split, shard, folder=None, *, masker, batch, seed, data):
    """Endless batches: video uint8 [b, T, H, W, 3], or planar [b, T, 3 H / 2, W], and the
    masker's token indices.

    Nothing is kept in the run's `folder`.
    """
    records, pipeline = make_records(split, seed=seed, **data)
    keep = Strip(masker)
    return make_source(records, batch=batch, shard=shard, transform=keep, **pipeline)


def make_benches(*, seed, data) -> dict:
    """How fast frames are decoded by themselves, "decode", where they are."""
    source = data["source"]
    several, made = (
        source_names.mixture_terms(source)[1:],
        source.startswith(("images:", "camera:")),
    )
    if source == source_names.WORLD or several or made:
        return {}

    def decode():
        records, _ = make_records("train", seed=seed, **data)
        seconds = seconds_per_clip(records, records.view, clips=CLIPS)
        return {"decode_seconds_per_clip": seconds / records.view.crops}

    return {"decode": decode}


class Strip:
    """Only the video of a sample, with masks: ground truth stays out of pretraining."""

    def __init__(self, masker):
        self.masker = masker

    def __call__(self, item, *, position, rng):
        return self.masker({"video": item["video"]}, position, rng)
