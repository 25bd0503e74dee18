"""Contact sheets: overview pictures of prepared data sets."""

import cv2
import numpy as np

from core.base.pictures import arrows, caption, rgb, tile
from core.data.decoding.video import decode_clip
from core.data.episodes.cameras import is_images
from core.data.tfds import Shards

CLIPS, FRAMES = 24, 4  # clips of a sheet, and frames of each
HEIGHT = 96  # pixels of a frame
PIECES, STEPS = 12, 8  # recordings of a sheet, and steps of each


def draw_clips(shards: Shards) -> np.ndarray:
    """Clips in two columns, each a row of frames with its id and label: [H, W, 3]."""
    shown = []
    for index in np.linspace(0, len(shards) - 1, min(CLIPS, len(shards))):
        example = shards[int(index)]
        fps = FRAMES / (example["end"] - example["start"])
        video = bytes(example["video"])
        frames = decode_clip(video, 0.0, fps, FRAMES, _resize_to)
        label = f" label {example['label']}" if example["label"] >= 0 else ""
        shown.append(caption(tile([frames], pad=2), f"{example['id']}{label}"))
    return in_two_columns(shown)


def in_two_columns(shown) -> np.ndarray:
    """Pictures in two columns: [H, W, 3]."""
    return tile([shown[i : i + 2] for i in range(0, len(shown), 2)], pad=8)


def _resize_to(height, width):
    """A function that resizes frames of this size to HEIGHT."""
    size = (max(1, round(width * HEIGHT / height)), HEIGHT)
    return lambda image: cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw_recordings(recordings) -> np.ndarray:
    """Recordings below each other: a row of steps per camera, and arrows of actions.

    An arrow shows the first two numbers of an action, right and down, relative to the
    largest of the recording. Returns [H, W, 3].
    """
    shown = []
    for index in np.linspace(0, len(recordings) - 1, min(PIECES, len(recordings))):
        steps = recordings.load(int(index))
        count = len(steps["action"])
        at = np.linspace(0, count - 1, min(STEPS, count)).astype(int)
        rows = [
            [
                _resize_to(*x.shape[1:3])(rgb(x)[0])
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
        lines = [recordings.name(int(index)), f"{count} steps"]
        lines += [f"reward {np.sum(steps['reward']):g}"]
        if "language" in steps:
            lines.append(f"'{steps['language'][0]}'")
        shown.append([caption(tile(rows, pad=2), ", ".join(lines))])
    return tile(shown, pad=8)
