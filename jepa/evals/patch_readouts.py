"""Dense read-outs of V-JEPA on the embedded world: bodies per patch, maps of components."""

import dataclasses
import functools
import math

import jax
import numpy as np

from core.base.pictures import pca_maps, tile, upscale
from core.data.bodies import tasks
from core.data.bodies.stacked import stack_clips
from core.data.bodies.world import World
from core.evals import fit
from core.evals.classification import Options
from core.evals.dense import score_patches
from core.evals.encoders import encoders_of, features_in_memory
from core.evals.measures import cell, flat
from core.evals.progress import progress_line, watched
from core.method import UNWATCHED, Frozen, Watch
from jepa.evals.pictures import frame_stride, zoom_of

ENCODERS = {"trained": "target", "untrained": "untrained", "pixels": "pixels"}
GRID = fit.Grid((3e-2, 1e-2, 3e-3, 1e-3), (0.1, 0.01), (0, 1, 2))
PICTURED = 6  # clips


def make_dense(
    frozen: Frozen,
    *,
    train: World,
    validation: World,
    grid: tuple[int, int, int],
    patch: tuple[int, int, int],
    train_clips: int = 800,
    held_clips: int = 400,
    steps: int = 200,
    cell: tuple[int, int, int] = (0, 0, 0),
    twin=None,
):
    """state -> mean IoU and accuracy of "which body covers this patch", and "components".

    By name ENCODER/miou and ENCODER/accuracy; `_low` and `_high` are the ends of the 95%
    interval over clips; "nothing" predicts no body anywhere. The picture has three rows per
    clip: frames, and the first three principal components of trained and of untrained
    features as colors. Each encoder has one basis for all clips. "components_middle" has the
    middle of each clip alone, a column per clip.

    Args:
      grid: tokens of a clip along time, row, column. patch: of a token.
      cell: frames, rows and columns that a body is named for, so that encoders with other
        patches answer the same questions; (0, 0, 0) is `patch`.
      twin: (state, watch) -> weights of a supervised twin, which is then read too.

    Raises ValueError for a cell that `patch` is no multiple of.
    """
    cell = cell if any(cell) else patch
    factor = cells_of(patch, cell)
    options = Options(steps=steps, head_batch=32, grid=GRID)

    def evaluate(state, watch: Watch = UNWATCHED):
        clips = []
        for world, n in ((train, train_clips), (validation, held_clips)):
            rows = watched(range(n), "clips with masks", watch)
            clips.append(stack_clips(dataclasses.replace(world, masks=True), rows))
        labels = tuple(
            by_token(
                tasks.patch_classes(part["mask"], cell, train.bodies), grid, factor
            )
            for part in clips
        )
        found, maps = nothing(labels[1], train.bodies + 1), []
        known = dict(encoders_of(frozen, ENCODERS, state))
        if twin is not None:
            weights = twin(state, watch)
            known["twin"] = functools.partial(jax.jit(frozen.encode), weights)
        for name, encode in known.items():
            fitted, scored = (
                features_in_memory(encode, part["video"], watch, name) for part in clips
            )
            tick = progress_line(f"{name}: linear heads: steps", steps, watch)
            scores = score_patches(
                fitted,
                scored,
                labels,
                classes=train.bodies + 1,
                options=options,
                cells=math.prod(factor),
                progress=tick,
            )
            for measure, numbers in scores.items():
                found |= flat(f"{name}/{measure}", measure, numbers)
            if name in ("trained", "untrained"):
                some = scored.tokens[:PICTURED, 0].astype(np.float32)
                maps.append(pca_maps(some.reshape(len(some), *grid, -1)))
        watch.say("\n" + table(found, known))
        some = clips[1]["video"][:PICTURED]
        return found | {
            "components": draw(some, maps, grid),
            "components_middle": draw_middle(some, maps, grid),
        }

    return evaluate


def cells_of(patch, cell) -> tuple[int, int, int]:
    """How many cells a patch has along time, row and column.

    Raises ValueError for a cell that the patch is no multiple of.
    """
    if any(c < 1 or p % c for p, c in zip(patch, cell, strict=True)):
        raise ValueError(
            f"physical.cell is {tuple(cell)}, but a token has {tuple(patch)} frames, rows "
            "and columns; expected numbers that divide these"
        )
    return patch[0] // cell[0], patch[1] // cell[1], patch[2] // cell[2]


def by_token(labels, grid, factor) -> np.ndarray:
    """Labels of cells [n, all of them] in order of the tokens [n, N cells per token]."""
    axes = [n for pair in zip(grid, factor, strict=True) for n in pair]
    x = labels.reshape(len(labels), *axes)
    return x.transpose(0, 1, 3, 5, 2, 4, 6).reshape(len(labels), -1)


def nothing(labels, classes: int) -> dict[str, float]:
    """Scores of predicting no body anywhere."""
    share = float((labels == 0).mean())
    return {"nothing/miou": share / classes, "nothing/accuracy": share}


def draw(videos, maps, grid) -> np.ndarray:
    """uint8 picture [H, W, 3]: per clip its frames, then the maps [t, h, w, 3] of each."""
    rows = []
    for i, frames in enumerate(videos):
        frames = frames[:: frame_stride(frames, grid)][: grid[0]]
        scale = zoom_of(frames)
        rows.append(upscale(frames, scale))
        side = frames.shape[1] * scale
        rows += [upscale(part[i], side // part[i].shape[1]) for part in maps]
    return tile(rows)


def draw_middle(videos, maps, grid) -> np.ndarray:
    """uint8 picture [H, W, 3]: a row of middle frames, then a row of each kind of maps."""
    step, middle = frame_stride(videos[0], grid), grid[0] // 2
    frames = upscale(videos[:, middle * step], zoom_of(videos[0]))
    side = frames.shape[1]
    rows = [upscale(part[:, middle], side // part.shape[2]) for part in maps]
    return tile([frames, *rows])


def table(found, encoders=ENCODERS) -> str:
    """Markdown: a row per encoder."""
    lines = ["| features | mean IoU | accuracy |", "|---|---|---|"]
    for name in encoders:
        cells = [cell(found, f"{name}/{measure}") for measure in ("miou", "accuracy")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    none = [f"{found[f'nothing/{measure}']:.2f}" for measure in ("miou", "accuracy")]
    return "\n".join([*lines, f"| no body anywhere | {' | '.join(none)} |"])
