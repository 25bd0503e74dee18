"""Pictures of what V-JEPA sees: masks on frames, principal components of features."""

import jax
import numpy as np

from core.base.pictures import overlay_cells, pca_maps, tile, upscale
from core.data.planar_rgb import planar_to_rgb
from jepa.model import patchify, standardize


def cells_of(index, valid, sizes, pattern, grid):
    """Which tokens of one sample belong to a mask pattern: bool [t, h, w]."""
    start = sum(sizes[:pattern])
    mine = slice(start, start + sizes[pattern])
    chosen = np.zeros(int(np.prod(grid)), bool)
    chosen[index[mine][valid[mine]]] = True
    return chosen.reshape(grid)


def mask_picture(batch, masker, *, clips=4):
    """Rows of frames: the clip, then per pattern what is context and what is hidden."""
    rows, videos = [], np.asarray(planar_to_rgb(batch["video"][:clips]))
    for i, frames in enumerate(videos):
        rows.append(upscale(frames[:: step_of(frames, masker.grid)], scale_of(frames)))
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
                upscale(drawn[:: step_of(frames, masker.grid)], scale_of(frames))
            )
    return tile(rows)


def step_of(frames, grid):
    return max(1, len(frames) // grid[0])


def scale_of(frames):
    return max(1, 128 // frames.shape[1])


def make_pictures(encoder, masker, *, batch, clips=6):
    """state -> the masks on the frames, and PCA maps of the target's features."""

    @jax.jit
    def encode(target, video):
        patches = standardize(patchify(video, encoder.patch))
        return encoder.apply({"params": target}, patches, grid=masker.grid)

    def pictures(state):
        held = batch()
        video = held["video"][:clips]
        features = np.asarray(encode(state.target, video), np.float32)
        maps = pca_maps(features.reshape(len(video), *masker.grid, -1))
        rows = []
        for frames, parts in zip(video, maps, strict=True):
            frames = frames[:: step_of(frames, masker.grid)][: masker.grid[0]]
            scale = scale_of(frames)
            rows.append(upscale(frames, scale))
            rows.append(upscale(parts, frames.shape[1] * scale // parts.shape[1]))
        return {"masks": mask_picture(held, masker), "features": tile(rows)}

    return pictures
