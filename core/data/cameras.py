"""Clips from a camera of recorded trajectories."""

import dataclasses

import numpy as np

from core.data.clips import View, make_crop
from core.data.records import REPEATED, BadSample, RecordsWrapper
from core.data.steps import LazyImages, check_steps
from core.data.trajectories import Recordings


@dataclasses.dataclass(frozen=True)
class Cameras(RecordsWrapper):
    """One clip per recording, from a random start; a clip stays within one episode.

    camera: name of the image array; the first in alphabetical order if empty. Raises
    ValueError if the recordings have no rate, or if the view has several crops or is planar.
    """

    inner: Recordings
    view: View
    camera: str = ""

    def __post_init__(self):
        if not self.inner.about.get("rate"):
            raise ValueError(
                f"{self.inner} has no rate in steps per second; prepare it with "
                "launch.prepare --clock or --rate"
            )
        if self.view.crops > 1 or self.view.planar:
            raise ValueError(
                "data.crops and data.planar are for videos, not for cameras of trajectories"
            )

    def load(self, index, rng):
        """{"video": uint8 [T, size, size, 3]} and REPEATED; the last frame of an episode is
        repeated.
        """
        ahead = np.arange(self.view.frames) * self.inner.about["rate"] / self.view.fps
        ahead = np.rint(ahead).astype(int)
        first = self.images_of(index)
        spare = len(first) if self.view.kind != "center" else 1
        start = int(rng.integers(spare))
        images = first[start : start + int(ahead[-1]) + 1]
        while len(images) <= ahead[-1] and index + 1 < len(self):
            index += 1
            more = self.images_of(index, goes_on=True)
            if more is None:
                break
            images = np.append(images, more[: int(ahead[-1]) + 1 - len(images)], 0)
        crop = make_crop(self.view, rng)(*images.shape[1:3])
        shown = np.minimum(ahead, len(images) - 1)
        video = np.stack([crop(images[at]) for at in shown])
        return {"video": video, REPEATED: len(shown) - len(np.unique(shown))}

    def images_of(self, index, goes_on=False):
        """The images of the first episode in a recording, [n, H, W, 3].

        goes_on: None if the recording begins an episode, and so continues none.
        """
        steps = check_steps(self.inner.load(index))
        if goes_on and steps["is_first"][0]:
            return None
        known = sorted(name for name, x in steps.items() if is_images(x))
        name = self.camera or next(iter(known), "")
        if name not in known:
            raise BadSample(
                f"has no camera {name!r}; it has {', '.join(known) or 'none'}"
            )
        # A recording may hold several episodes.
        starts = np.flatnonzero(steps["is_first"][1:])
        return steps[name] if not len(starts) else steps[name][: int(starts[0]) + 1]


def is_images(x) -> bool:
    """Whether an array of steps holds RGB images, decoded or not."""
    return isinstance(x, LazyImages) or (
        x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] == 3
    )
