"""Films of plans that were carried out, beside the goal."""

import numpy as np

from core.base.pictures import rgb, tile, upscale

SHOWN = 8  # frames of a contact sheet
SIDE = 96  # pixels that small images are enlarged to
GREEN, RED = (40, 180, 60), (220, 60, 40)
EDGE = 3  # pixels of the frame around an image


def framed(images: np.ndarray, color) -> np.ndarray:
    """Images [..., h, w, 3], enlarged, in a frame of a color."""
    large = upscale(rgb(images), max(1, SIDE // images.shape[-3]))
    pad = [(0, 0)] * (large.ndim - 3) + [(EDGE, EDGE), (EDGE, EDGE), (0, 0)]
    out = np.pad(large, pad)
    for edge in (np.s_[..., :EDGE, :, :], np.s_[..., -EDGE:, :, :],
                 np.s_[..., :, :EDGE, :], np.s_[..., :, -EDGE:, :]):  # fmt: skip
        out[edge] = color
    return out


def contact_sheet(film: np.ndarray, goals: np.ndarray, steps: np.ndarray, budget: int):
    """A row per problem: frames of its film up to success, then the goal [H, W, 3].

    Args:
      film: uint8 [P, T + 1, h, w, 3]. goals: [P, h, w, 3]. steps: until success [P],
        `budget` where there was none. Frames of solved problems are green, others red.
    """
    rows = []
    for frames, goal, last in zip(film, goals, steps, strict=True):
        color = GREEN if last < budget else RED
        at = np.linspace(0, min(last, len(frames) - 1), SHOWN).round().astype(int)
        blank = np.full_like(framed(goal, color), 255)[:, : 4 * EDGE]
        rows.append([*framed(frames[at], color), blank, framed(goal, (0, 0, 0))])
    return tile(rows)


def film_of(film: np.ndarray, goals: np.ndarray, steps: np.ndarray, budget: int):
    """The films side by side above their goals: uint8 [T + 1, H, W, 3]."""
    frames = []
    for t in range(film.shape[1]):
        colors = [GREEN if last < budget and t >= last else RED for last in steps]
        now = [framed(x[t], c) for x, c in zip(film, colors, strict=True)]
        frames.append(tile([now, [framed(x, (0, 0, 0)) for x in goals]]))
    return np.stack(frames)
