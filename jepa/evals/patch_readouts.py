"""Dense read-outs of V-JEPA on the embedded world: bodies per patch, maps of components."""

import dataclasses

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
):
    """state -> mean IoU and accuracy of "which body covers this patch", and "components".

    By name ENCODER/miou and ENCODER/accuracy; `_low` and `_high` are the ends of the 95%
    interval over clips; "nothing" predicts no body anywhere. The picture has three rows per
    clip: frames, and the first three principal components of trained and of untrained
    features as colors. Each encoder has one basis for all clips.

    Args:
      grid: tokens of a clip along time, row, column. patch: of a token.
    """
    options = Options(steps=steps, head_batch=32, grid=GRID)

    def evaluate(state, watch: Watch = UNWATCHED):
        clips = []
        for world, n in ((train, train_clips), (validation, held_clips)):
            rows = watched(range(n), "clips with masks", watch)
            clips.append(stack_clips(dataclasses.replace(world, masks=True), rows))
        labels = tuple(
            tasks.patch_classes(part["mask"], patch, train.bodies) for part in clips
        )
        found, maps = nothing(labels[1], train.bodies + 1), []
        for name, encode in encoders_of(frozen, ENCODERS, state):
            parts = [
                features_in_memory(encode, part["video"], watch, name) for part in clips
            ]
            tick = progress_line(f"{name}: linear heads: steps", steps, watch)
            scores = score_patches(
                *parts,
                labels,
                classes=train.bodies + 1,
                options=options,
                progress=tick,
            )
            for measure, numbers in scores.items():
                found |= flat(f"{name}/{measure}", measure, numbers)
            if name != "pixels":
                some = parts[1].tokens[:PICTURED, 0].astype(np.float32)
                maps.append(pca_maps(some.reshape(len(some), *grid, -1)))
        watch.say("\n" + table(found))
        return found | {"components": draw(clips[1]["video"][:PICTURED], maps, grid)}

    return evaluate


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


def table(found) -> str:
    """Markdown: a row per encoder."""
    lines = ["| features | mean IoU | accuracy |", "|---|---|---|"]
    for name in ENCODERS:
        cells = [cell(found, f"{name}/{measure}") for measure in ("miou", "accuracy")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    none = [f"{found[f'nothing/{measure}']:.2f}" for measure in ("miou", "accuracy")]
    return "\n".join([*lines, f"| no body anywhere | {' | '.join(none)} |"])
