"""Clips from a camera of recorded trajectories."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from core.data.clips import View, make_views, with_label
from core.data.episodes.steps import LazyImages, check_steps, is_observation
from core.data.episodes.trajectories import Recordings
from core.data.records import REPEATED, BadSample, RecordsWrapper, blame


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
        """{"video": uint8 [T, size, size, 3]}, local views if wanted, and REPEATED.

        The last frame of an episode is repeated only if there are too few steps from the
        recording's first one to the end of the episode.
        """
        ahead = np.arange(self.view.frames) * self.inner.about["rate"] / self.view.fps
        ahead = np.rint(ahead).astype(int)
        span = int(ahead[-1]) + 1
        images, over = self.images_of(index)
        spare = max(1, len(images) - span + 1) if over else len(images)
        start = int(rng.integers(spare)) if self.view.kind != "center" else 0
        parts, count = [images], len(images)
        while not over and count < start + span and index + 1 < len(self):
            index += 1
            with blame(self.inner.name(index)):
                images, over = self.images_of(index, goes_on=True)
            parts, count = [*parts, images], count + len(images)
        start = min(start, max(0, count - span))
        images = slice_parts(parts, start, start + span)
        crop = make_views(self.view, rng)(*images.shape[1:3])
        shown = np.minimum(ahead, len(images) - 1)
        video = np.stack([crop(images[at]) for at in shown])
        repeated = {REPEATED: len(shown) - len(np.unique(shown))}
        return with_label(video, -1, self.view) | repeated

    def images_of(self, index, goes_on=False):
        """(images of the first episode in a recording [n, H, W, 3], whether it ends there).

        goes_on: no images if the recording begins an episode, and so continues none.
        """
        steps = check_steps(self.inner.load(index))
        if goes_on and steps["is_first"][0]:
            return (), True
        known = camera_names(steps)
        name = self.camera or next(iter(known), "")
        if name not in known:
            raise BadSample(
                f"has no camera {name!r}; it has {', '.join(known) or 'none'}"
            )
        # A recording may hold several episodes.
        starts = np.flatnonzero(steps["is_first"][1:])
        if len(starts):
            return steps[name][: int(starts[0]) + 1], True
        return steps[name], bool(steps["is_last"][-1])


def slice_parts(parts, start: int, stop: int) -> np.ndarray:
    """Images start..stop - 1 of consecutive parts, as far as there are so many."""
    found, before = [], 0
    for part in parts:
        first, last = max(0, start - before), min(len(part), stop - before)
        if first < last:
            found.append(part[first:last])
        before += len(part)
    return np.concatenate(found)


def camera_names(steps: Mapping) -> list[str]:
    """The names of the observations that are RGB images, sorted."""
    return sorted(k for k, x in steps.items() if is_observation(k) and is_images(x))


def is_images(x) -> bool:
    """Whether an array of steps holds RGB images, decoded or not."""
    if isinstance(x, LazyImages):
        return not x.depth
    return x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] == 3
