"""Contact sheets: what a data set looks like at a glance."""

import cv2
import numpy as np

from core.base.pictures import arrows, caption, rgb, tile
from core.data.cameras import is_images
from core.data.tfds import Shards
from core.data.video import decode_clip

CLIPS = 24
MOMENTS = 4  # of each
HEIGHT = 96  # pixels of each
PIECES, STEPS = 12, 8  # of trajectories, and of each


def of_clips(shards: Shards) -> np.ndarray:
    """Clips in two columns, a row of moments each: [H, W, 3]."""
    shown = []
    for index in np.linspace(0, len(shards) - 1, min(CLIPS, len(shards))):
        example = shards[int(index)]
        fps = MOMENTS / (example["end"] - example["start"])
        video = bytes(example["video"])
        frames = decode_clip(video, 0.0, fps, MOMENTS, _small)
        label = f" label {example['label']}" if example["label"] >= 0 else ""
        shown.append(caption(tile([frames], pad=2), f"{example['id']}{label}"))
    return in_columns(shown)


def in_columns(shown) -> np.ndarray:
    """Pictures two by two."""
    return tile([shown[i : i + 2] for i in range(0, len(shown), 2)], pad=8)


def _small(height, width):
    size = (max(1, round(width * HEIGHT / height)), HEIGHT)
    return lambda image: cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def of_steps(recordings) -> np.ndarray:
    """Recordings below each other, a row of steps for each camera, and what is done then.

    The arrow of a step is the first two numbers of its action, right and down, over the
    largest of its recording.
    """
    shown = []
    for index in np.linspace(0, len(recordings) - 1, min(PIECES, len(recordings))):
        steps = recordings.load(int(index))
        count = len(steps["action"])
        at = np.linspace(0, count - 1, min(STEPS, count)).astype(int)
        rows = [
            [
                _small(*x.shape[1:3])(rgb(x)[0])
                for x in (steps[name][t : t + 1] for t in at)
            ]
            for name in sorted(steps)
            if is_images(steps[name])
        ]
        rows.append(
            arrows(
                np.asarray(steps["action"])[at],
                width=rows[-1][0].shape[1] if rows else HEIGHT,
            )
        )
        told = [recordings.name(int(index)), f"{count} steps"]
        told += [f"reward {np.sum(steps['reward']):g}"]
        if "language" in steps:
            told.append(f"'{steps['language'][0]}'")
        shown.append([caption(tile(rows, pad=2), ", ".join(told))])
    return tile(shown, pad=8)
