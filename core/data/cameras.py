"""What a camera sees in recorded trajectories, as clips."""

import dataclasses

import numpy as np

from core.data.clips import View, framing
from core.data.records import BadSample, Over
from core.data.steps import Lazy, check
from core.data.trajectories import Recordings


@dataclasses.dataclass(frozen=True)
class Cameras(Over):
    """A clip of each recording, begun anywhere in it; it never runs into another episode.

    camera: name of the pictures; empty for the first by name. Recordings must tell how
    many steps a second has.
    """

    inner: Recordings
    view: View
    camera: str = ""

    def __post_init__(self):
        if not self.inner.about.get("rate"):
            raise ValueError(
                f"{self.inner} does not tell how many steps a second has; prepare it "
                "with launch.prepare --clock or --rate"
            )
        if self.view.crops > 1 or self.view.planar:
            raise ValueError(
                "data.crops and data.planar are for videos, not for cameras of trajectories"
            )

    def load(self, index, rng):
        """{"video": uint8 [T, H, W, 3]}; after an episode's end its last frame stays."""
        ahead = np.arange(self.view.frames) * self.inner.about["rate"] / self.view.fps
        ahead = np.rint(ahead).astype(int)
        pictures = self.pictures(index)
        spare = len(pictures) if self.view.kind != "center" else 1
        begin = int(rng.integers(spare))
        images = pictures[begin : begin + int(ahead[-1]) + 1]
        while len(images) <= ahead[-1] and index + 1 < len(self):
            index += 1
            more = self.pictures(index, goes_on=True)
            if more is None:
                break
            images = np.append(images, more[: int(ahead[-1]) + 1 - len(images)], 0)
        look = framing(self.view, rng)(*images.shape[1:3])
        shown = np.minimum(ahead, len(images) - 1)
        return {"video": np.stack([look(images[at]) for at in shown])}

    def pictures(self, index, goes_on=False):
        """Those of a recording; None if one that goes on is asked for, and it does not."""
        steps = check(self.inner.load(index))
        if goes_on and steps["is_first"][0]:
            return None
        known = sorted(name for name, x in steps.items() if is_pictures(x))
        name = self.camera or next(iter(known), "")
        if name not in known:
            raise BadSample(
                f"has no pictures {name!r}, but {', '.join(known) or 'none'}"
            )
        # Within a recording of several episodes, only up to the next one.
        begins = np.flatnonzero(steps["is_first"][1:])
        return steps[name] if not len(begins) else steps[name][: int(begins[0]) + 1]


def is_pictures(x) -> bool:
    """Whether an array of steps is RGB, decoded or not."""
    return isinstance(x, Lazy) or (
        x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] == 3
    )
