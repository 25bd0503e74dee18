"""Pictures of LeVJEPA: what the encoder sees of the views, components of its features."""

import functools

import jax
import numpy as np

from core.base.pictures import pca_maps, tile, upscale
from jepa.evals.pictures import frame_stride, zoom_of
from jepa.inputs.clips import make_records
from jepa.inputs.token_drop import TokenDrop
from jepa.nets.encode import tokens_of

EMPTY = 128  # gray of tokens that are dropped
CLIPS, VIEWS = 3, 2  # in the picture of kept tokens: clips, and local views of each


def paste(patches, index, grid, patch) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] with kept patches [n, p] at their places, gray elsewhere."""
    canvas = np.full((np.prod(grid), *patch, 3), EMPTY, np.uint8)
    canvas[index] = np.asarray(patches).reshape(len(index), *patch, 3)
    canvas = canvas.reshape(*grid, *patch, 3).transpose(0, 3, 1, 4, 2, 5, 6)
    return canvas.reshape(*(n * p for n, p in zip(grid, patch, strict=True)), 3)


def kept_picture(batch, drop: TokenDrop) -> np.ndarray:
    """uint8 picture [H, W, 3]: per clip a row of frames of the global view, then local ones.

    Tokens that are dropped are gray.
    """
    rows = []
    for i in range(min(CLIPS, len(batch["index"]))):
        views = [paste(batch["patches"][i], batch["index"][i], drop.grid, drop.patch)]
        local = zip(batch["local_patches"][i], batch["local_index"][i], strict=True)
        views += [paste(*view, drop.local_grid, drop.patch) for view in local][:VIEWS]
        rows += [upscale(x[:: frame_stride(x, drop.grid)], zoom_of(x)) for x in views]
    return tile(rows)


def make_pictures(encoder, drop: TokenDrop, *, batch, data, seed: int, clips: int = 6):
    """state -> {"views": `kept_picture`, "features": PCA maps of whole validation clips}.

    batch: () -> the validation batch, always the same. data: the config's section.
    """
    encode = jax.jit(functools.partial(tokens_of, encoder, drop.grid))

    @functools.cache
    def videos():
        """Central crops of the first validation clips, no views of them."""
        records, _ = data.into(make_records, split="validation", seed=seed)
        rng = np.random.default_rng(seed)
        return np.stack([records.load(i, rng)["video"] for i in range(clips)])

    def pictures(state, watch):
        video, rows = videos(), []
        features = np.asarray(encode(state.target, video), np.float32)
        maps = pca_maps(features.reshape(len(video), *drop.grid, -1))
        for frames, colors in zip(video, maps, strict=True):
            frames = frames[:: frame_stride(frames, drop.grid)][: drop.grid[0]]
            scale = zoom_of(frames)
            rows.append(upscale(frames, scale))
            rows.append(upscale(colors, frames.shape[1] * scale // colors.shape[1]))
        return {"views": kept_picture(batch(), drop), "features": tile(rows)}

    return pictures
