"""Contact sheets of training batches."""

import numpy as np

from core.base.pictures import arrows, caption, rgb, tile, upscale

SEQUENCES, STEPS = 6, 12
SIDE = 96  # smallest size of a frame, pixels


def sequences(batch) -> np.ndarray:
    """A batch [B, T, ...] as one picture, uint8 [H, W, 3], one sequence per row.

    Frames of each camera, the action after each, the steps at which episodes begin, and
    the sum of rewards.
    """
    shown = []
    for i in range(min(SEQUENCES, len(batch["is_first"]))):
        count = min(STEPS, batch["is_first"].shape[1])
        rows = [
            list(upscale(rgb(x[i, :count]), max(1, SIDE // x.shape[2])))
            for name, x in sorted(batch.items())
            if x.ndim == 5 and x.dtype == np.uint8
        ]
        width = rows[-1][0].shape[1] if rows else SIDE
        # A batch holds the action before each step.
        actions = np.append(batch["action"][i, 1:], batch["action"][i, :1] * 0, 0)
        rows.append(arrows(actions[:count], width=width))
        begins = np.flatnonzero(batch["is_first"][i, :count]).tolist()
        reward = float(batch["reward"][i].sum())
        text = f"sequence {i}: episodes begin at {begins}, reward {reward:g}"
        shown.append([caption(tile(rows, pad=2), text)])
    return tile(shown, pad=8)
