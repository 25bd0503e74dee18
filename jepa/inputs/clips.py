"""Sources of V-JEPA: clips of a data set by name, with masks."""

import dataclasses

import numpy as np

from core.data import source_names
from core.data.bodies.world import World
from core.data.clips import CutViews, LocalViews, View
from core.data.decoding import planar
from core.data.decoding.decode_baseline import seconds_per_clip
from core.data.loading.pipeline import STALL_S, make_source
from core.data.records import RecordsWrapper
from core.section import Section

FRAMES = "frames:"  # before a name: single frames of its videos
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
    local: LocalViews | None = None,
):
    """(records of `split`, keywords of `make_source`), from the config's data section.

    split: "train" has random clips of the source, "validation" central ones, both of the
    world without labels; "world" and "world_validation" are labelled clips of the embedded
    world in the same format, for probes.

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
      local: small crops of each clip of "train" and "validation" besides, as "local"; the
        world's clips are then cropped too.

    Raises:
      ValueError: for fields that the source cannot follow.
    """
    clip = {"frames": frames, "fps": fps, "size": size}
    pipeline = {"seed": seed, "workers": workers, "max_bad_share": max_bad_share}
    pipeline["stall_s"] = stall_s
    shift = VALIDATION if split in ("validation", "world_validation") else 0
    trains = split in ("train", "validation")
    world = World(
        seed + shift, level=level, bodies=bodies, labels=not trains,
        **clip | {"frames": max(2, frames)},
    )  # fmt: skip
    if any(
        name == source_names.WORLD for _, name in source_names.mixture_terms(source)
    ):
        for name, value, usual in (("crops", crops, 1), ("planar", planar, False)):
            if value != usual:
                raise ValueError(
                    f"data.{name} is {value}, but the world decodes nothing; use {usual}"
                )
    if not trains:
        return world, pipeline | {"shuffle": False}
    refuse_frames(source)
    kind = "random" if split == "train" else "center"
    more = {"crops": crops, "planar": planar} if split == "train" else {}
    view = View(
        scale=scale, aspect=aspect, flip=flip, kind=kind, local=local, **clip, **more
    )
    known = world if frames > 1 else FirstFrame(world)
    known = known if local is None else CutViews(known, view)
    if source == source_names.WORLD:
        return known, pipeline | {"shuffle": False}
    records = source_names.videos(source, split, view, lambda: known, frame_tolerance)
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


def make_view_source(
    split, shard, folder=None, *, drop, local: LocalViews, batch, seed, data: Section
):
    """core.method.Source of endless batches of what `drop` keeps of views of clips.

    drop: jepa.inputs.token_drop.TokenDrop, which names the arrays. Raises ValueError for a
    source of images alone.
    """
    refuse_images(data["source"])
    records, pipeline = data.into(make_records, split=split, seed=seed, local=local)
    return make_source(records, batch=batch, shard=shard, transform=drop, **pipeline)


def refuse_images(source: str) -> None:
    """Raise ValueError if all data sets of a name hold images, which do not move."""
    names = [name for _, name in source_names.mixture_terms(source)]
    if all(name.startswith(source_names.IMAGES) for name in names):
        raise ValueError(
            f"data.source is {source}, which holds images; expected videos, such as a "
            "folder of them or world"
        )


def make_image_source(split, shard, folder=None, *, masker, batch, seed, data: Section):
    """`make_train_source` of single images: video uint8 [b, 1, H, W, 3], and masks.

    Raises ValueError for a source of videos.
    """
    images = data.replace(source=single_frames(data["source"]), frames=1)
    return make_train_source(
        split, shard, folder, masker=masker, batch=batch, seed=seed, data=images
    )


def single_frames(source: str) -> str:
    """The name of data sets whose single frames a name of images stands for.

    "images:FOLDER" and data sets with the feature "image" stay, "frames:NAME" is a random
    frame of the videos of NAME. Raises ValueError for videos without that word.
    """
    terms = []
    for weight, name in source_names.mixture_terms(source):
        if name.startswith(FRAMES):
            name = name.removeprefix(FRAMES)
        elif not source_names.holds_images(name):
            raise ValueError(
                f"data.source names {name}, which holds videos; expected images:FOLDER, or "
                f"{FRAMES}{name} for single frames of them"
            )
        terms.append(f"{weight!r}*{name}")
    return " + ".join(terms) if len(terms) > 1 else terms[0].partition("*")[2]


def refuse_frames(source: str) -> None:
    """Raise ValueError for a name of single frames where videos are expected."""
    for _, name in source_names.mixture_terms(source):
        if name.startswith(FRAMES):
            raise ValueError(
                f"data.source names {name}, which is for encoders of images; expected "
                f"{name.removeprefix(FRAMES)}"
            )


@dataclasses.dataclass(frozen=True)
class FirstFrame(RecordsWrapper):
    """The first frame of clips of the world: "video" uint8 [1, H, W, 3], without labels."""

    def load(self, index, rng=None):
        return {"video": self.inner.load(index, rng)["video"][:1]}


def make_benches(*, seed, data: Section) -> dict:
    """{"decode": seconds per clip of decoding alone}; empty unless one source has videos."""
    source = data["source"]
    mixture = len(source_names.mixture_terms(source)) > 1
    undecoded = source == source_names.WORLD or source.startswith(
        (FRAMES, source_names.IMAGES, "camera:")
    )
    if mixture or undecoded:
        return {}

    def decode():
        records, _ = data.into(make_records, split="train", seed=seed)
        seconds = seconds_per_clip(records, records.view, clips=CLIPS)
        return {"decode_seconds_per_clip": seconds / records.view.crops}

    return {"decode": decode}


def make_example(
    transform, *, data: Section, frames=0, local: LocalViews | None = None
):
    """() -> what `transform` makes of a black clip: a training example, without data.

    frames: of the clip, by default the config's. local: as of `make_records`.
    """

    def example():
        size, T = data["size"], frames or data["frames"]
        shape = planar.empty_planar(size).shape if data["planar"] else (size, size, 3)
        item = {"video": np.zeros((T, *shape), np.uint8)}
        if local is not None:
            shape = (local.count, T, local.size, local.size, 3)
            item["local"] = np.zeros(shape, np.uint8)
        return transform(item, position=0, rng=np.random.default_rng(0))

    return example


class VideoWithMasks:
    """Maps a sample to its video and masks; drops labels, which pretraining must not see."""

    def __init__(self, masker):
        self.masker = masker

    def __call__(self, item, *, position, rng):
        return self.masker({"video": item["video"]}, position, rng)
