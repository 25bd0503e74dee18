"""Clips of latent world models: frames some environment steps apart, actions between."""

import dataclasses
import functools

import numpy as np

from core.data.episodes.pictures import resized
from core.data.loading.pipeline import make_source
from core.data.mixture import map_parts
from core.data.records import BadSample, Records, RecordsWrapper
from core.section import Section
from jepa.worlds.windows import PLACE, open_windows, picture_name


def make_read(data: Section, *, seed: int, skip: int):
    """`make_clips` with all but split and frames, from the config's section `data`."""
    windows = data.without("image").bind(open_windows, "split", "steps", seed=seed)
    return functools.partial(
        make_clips, windows=windows, skip=skip, size=data["size"], image=data["image"]
    )


def make_clips(split, *, windows, frames, skip, size, image=""):
    """(records of clips, keywords of `make_source`).

    A clip is {"image": uint8 [frames, size, size, 3], "action": float32 [frames - 1, skip A],
    the actions between the frames in the units of the data}, and "log/position" [frames, K,
    2] where the data has it.

    Args:
      split: "train" or "validation", which are different episodes.
      frames: of a clip, `skip` environment steps apart.
      size: pixels per side that pictures are resized to.
      image: name of the picture among the observations; "" is the first by name.
      windows: (split, steps=) -> what `open_windows` returns.

    Raises ValueError for a source that is missing or holds no trajectories.
    """
    for name, value in (("frames", frames), ("skip", skip)):
        if value < (least := 2 if name == "frames" else 1):
            raise ValueError(f"clips have {name} {value}; use {least} or more")
    steps = (frames - 1) * skip + 1
    found, pipeline = windows(split, steps=steps)
    return map_parts(lambda part: Clips(part, skip, size, image), found), pipeline


@dataclasses.dataclass(frozen=True)
class Clips(RecordsWrapper):
    """Windows as clips for `make_clips`."""

    inner: Records
    skip: int
    size: int
    image: str = ""

    @property
    def about(self):
        return getattr(self.inner, "about", {})

    def load(self, index, rng=None):
        """A clip; raises BadSample for a window without the picture or without actions."""
        window = self.inner.load(index, rng)
        if not np.size(window.get("action", ())):
            raise BadSample(
                "has no actions between its frames; expected some numbers each"
            )
        pictures = window[picture_name(window, self.image)][:: self.skip]
        # The action of a window's step is the one before it.
        action = np.asarray(window["action"], np.float32)[1:]
        action = action.reshape(len(pictures) - 1, self.skip * action.shape[1])
        more = {PLACE: window[PLACE][:: self.skip]} if PLACE in window else {}
        return {"image": resized(pictures, self.size), "action": action, **more}


def make_clip_source(split, shard, folder=None, *, batch, width, make_records):
    """core.method.Source of endless batches of clips; ignores `folder`.

    width: numbers of a block of actions. make_records: split -> what `make_clips` returns.
    """
    records, pipeline = make_records(split)
    records = map_parts(functools.partial(Trained, width=width), records)
    return make_source(records, batch=batch, shard=shard, **pipeline)


@dataclasses.dataclass(frozen=True)
class Trained(RecordsWrapper):
    """Clips without what evaluations alone may see; all have blocks of `width` numbers."""

    inner: Records
    width: int

    def load(self, index, rng=None):
        """{"image", "action"} of a clip; raises BadSample for another width."""
        item = self.inner.load(index, rng)
        if (found := item["action"].shape[1]) != self.width:
            raise BadSample(f"blocks of actions are {found} wide, not {self.width}")
        return {name: item[name] for name in ("image", "action")}
