"""Random token drop: the few patches of each view that the encoder sees, cut by the pipeline.

Source: arXiv 2608.27395 (LeVJEPA). Patches that are dropped never leave the worker: at 5% of
the tokens a batch is a twentieth of the bytes.
"""

import dataclasses

import cv2
import numpy as np

Grid = tuple[int, int, int]


def count_kept(grid: Grid, keep: float, per_step: bool) -> int:
    """Tokens of a view that are kept: the share `keep` of `grid`, or of each time step.

    Raises ValueError where no token is left.
    """
    t, h, w = grid
    if not 0 < keep <= 1:
        raise ValueError(
            f"views.keep is {keep}; expected a share above 0, up to 1 (no drop)"
        )
    tokens = h * w if per_step else t * h * w
    kept = round(keep * tokens)
    if not kept:
        where = "each time step" if per_step else "a view"
        raise ValueError(
            f"views.keep is {keep}, which leaves none of the {tokens} tokens of {where} of "
            f"the {t}x{h}x{w} grid; use {1 / tokens:.3g} or more"
        )
    return kept * t if per_step else kept


def draw_kept(grid: Grid, count: int, per_step: bool, rng) -> np.ndarray:
    """Ascending indices of `count` random tokens of a grid, int32.

    per_step: as many of every time step.
    """
    t, h, w = grid
    if not per_step:
        return np.sort(rng.permutation(t * h * w)[:count]).astype(np.int32)
    rows = [np.sort(rng.permutation(h * w)[: count // t]) + i * h * w for i in range(t)]
    return np.concatenate(rows).astype(np.int32)


def patches_at(video: np.ndarray, patch: Grid, index: np.ndarray) -> np.ndarray:
    """The tubelets [n, pt ph pw 3] of a clip [T, H, W, 3] at flat indices [n]."""
    grid = tuple(n // p for n, p in zip(video.shape, patch, strict=False))
    t, row, col = np.unravel_index(index, grid)
    pt, ph, pw = patch
    cut = video[: grid[0] * pt, : grid[1] * ph, : grid[2] * pw]
    cut = cut.reshape(grid[0], pt, grid[1], ph, grid[2], pw, 3)
    return cut[t, :, row, :, col].reshape(len(index), pt * ph * pw * 3)


@dataclasses.dataclass(frozen=True)
class TokenDrop:
    """Replaces the views of a sample by the patches that are kept; a map for the pipeline.

    From {"video", "local"} of core.data.clips.split_views it makes `patches` uint8 [n, p]
    and `index` int32 [n]; `local_patches` [V, m, p], `local_index` [V, m] and `local_mean`
    float32 [V, 3], the mean color of each whole view in 0..1.

    Attributes:
      patch: frames, rows and columns of a token. grid, local_grid: tokens of the views.
      keep: share of the tokens that is kept. per_step: the same number of every time step.
    """

    patch: Grid
    grid: Grid
    local_grid: Grid
    keep: float
    per_step: bool = False

    def __post_init__(self):
        self.counts()  # raises

    def counts(self) -> tuple[int, int]:
        """Tokens that are kept of a global and of a local view."""
        return tuple(
            count_kept(grid, self.keep, self.per_step)
            for grid in (self.grid, self.local_grid)
        )

    def __call__(self, item: dict, *, position, rng) -> dict:
        count, local_count = self.counts()
        index = draw_kept(self.grid, count, self.per_step, rng)
        found = {
            "patches": patches_at(item["video"], self.patch, index),
            "index": index,
        }
        local = item["local"]
        indices = [
            draw_kept(self.local_grid, local_count, self.per_step, rng) for _ in local
        ]
        pairs = zip(local, indices, strict=True)
        return found | {
            "local_patches": np.stack([patches_at(x, self.patch, i) for x, i in pairs]),
            "local_index": np.stack(indices),
            "local_mean": np.stack([mean_color(x) for x in local]),
        }


def mean_color(video: np.ndarray) -> np.ndarray:
    """Of all pixels of a clip uint8 [T, H, W, 3], in 0..1: float32 [3].

    OpenCV adds bytes; numpy converts them first, which takes forty times as long.
    """
    rows = video.reshape(-1, *video.shape[2:])
    return np.array(cv2.mean(rows)[:3], np.float32) / 255
