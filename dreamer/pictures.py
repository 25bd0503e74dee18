"""Pictures of what a world model is trained on."""

import numpy as np

from core.base.pictures import arrows, caption, rgb, tile, upscale

SEQUENCES, STEPS = 6, 12
SIDE = 96  # pixels that a frame has at least


def sequences(batch) -> np.ndarray:
    """Sequences below each other: each camera's frames, and what is done after each.

    What begins anew, as the model is told, stands under the number of its step.
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
        # A step is told what was done before it.
        done = np.append(batch["action"][i, 1:], batch["action"][i, :1] * 0, 0)
        rows.append(arrows(done[:count], width=width))
        begins = np.flatnonzero(batch["is_first"][i, :count]).tolist()
        reward = float(batch["reward"][i].sum())
        told = f"sequence {i}: begins anew at {begins}, reward {reward:g}"
        shown.append([caption(tile(rows, pad=2), told)])
    return tile(shown, pad=8)
