"""Pictures for evaluations: masks on frames, principal components of features."""

from math import ceil

import jax
import numpy as np

from core.base.pictures import overlay_cells, pca_maps, tile, upscale
from core.data.decoding.planar_rgb import planar_to_rgb
from jepa.nets.model import patchify, standardize


def cells_of(index, valid, sizes, pattern, grid):
    """Which tokens of one sample belong to mask pattern number `pattern`: bool [t, h, w].

    index, valid: [sum(sizes)] of all patterns; sizes: tokens per pattern.
    """
    start = sum(sizes[:pattern])
    mine = slice(start, start + sizes[pattern])
    chosen = np.zeros(int(np.prod(grid)), bool)
    chosen[index[mine][valid[mine]]] = True
    return chosen.reshape(grid)


def mask_picture(batch, masker, *, clips=4):
    """uint8 picture [H, W, 3]: per clip a row of frames, then one per mask pattern.

    Context and target tokens are marked by color.
    """
    rows, videos = [], np.asarray(planar_to_rgb(batch["video"][:clips]))
    for i, frames in enumerate(videos):
        rows.append(
            upscale(frames[:: frame_stride(frames, masker.grid)], zoom_of(frames))
        )
        for p in range(len(masker.patterns)):
            marks = np.zeros(masker.grid, np.int32)
            for mark, name in ((1, "context"), (2, "target")):
                chosen = cells_of(
                    batch[name][i],
                    batch[f"{name}_valid"][i],
                    masker.sizes(name),
                    p,
                    masker.grid,
                )
                marks[chosen] = mark
            drawn = overlay_cells(frames, marks)
            rows.append(
                upscale(drawn[:: frame_stride(frames, masker.grid)], zoom_of(frames))
            )
    return tile(rows)


def frame_stride(frames, grid):
    """Every how many frames one is shown: one per tubelet."""
    return max(1, len(frames) // grid[0])


def zoom_of(frames):
    """The factor that makes frames [T, H, W, 3] at least 128 pixels high."""
    return ceil(128 / frames.shape[1])


def make_pictures(encoder, masker, *, batch, clips=6):
    """state -> {"masks": `mask_picture`, "features": PCA maps of the target's features}.

    batch: () -> the validation batch, always the same.
    """

    @jax.jit
    def encode(target, video):
        patches = standardize(patchify(video, encoder.patch))
        return encoder.apply({"params": target}, patches, grid=masker.grid)

    def pictures(state, watch):
        validation = batch()
        video = validation["video"][:clips]
        features = np.asarray(encode(state.target, video), np.float32)
        maps = pca_maps(features.reshape(len(video), *masker.grid, -1))
        rows = []
        for frames, colors in zip(video, maps, strict=True):
            frames = frames[:: frame_stride(frames, masker.grid)][: masker.grid[0]]
            scale = zoom_of(frames)
            rows.append(upscale(frames, scale))
            rows.append(upscale(colors, frames.shape[1] * scale // colors.shape[1]))
        return {"masks": mask_picture(validation, masker), "features": tile(rows)}

    return pictures
