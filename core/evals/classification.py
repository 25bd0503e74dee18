"""Scores of heads that classify videos from features: settings chosen, intervals, spread."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from core.evals import fit
from core.evals.extract import Features
from core.evals.heads import AttentiveHead, LinearHead
from core.evals.neighbors import nearest_classes
from core.evals.predictions import Top, accuracy, top_of

SELECT_ONE_IN = 5  # of the training videos choose the settings of a head


class Options(NamedTuple):
    """How videos are read and heads are trained.

    clips, views: per video. frames: of a clip, 0 for those of the method. frame_step: every
    how many stored frames one is taken, 0 goes by time. batch: clips that are encoded at
    once. workers: threads that decode. steps, head_batch, grid: of the heads.
    head_gigabytes: for the heads that are trained at once. k: neighbors.
    """

    clips: int = 1
    views: int = 1
    frames: int = 0
    frame_step: int = 0
    batch: int = 16
    workers: int = 2
    steps: int = 500
    head_batch: int = 64
    grid: fit.Grid = fit.Grid()
    head_gigabytes: float = 4.0
    k: int = 20


HEADS: Mapping[str, Callable[[int, int], Any] | None] = {
    "knn": None,
    "linear": lambda classes, width: LinearHead(classes),
    "attentive1": lambda classes, width: AttentiveHead(classes, 1, heads_of(width)),
    "attentive4": lambda classes, width: AttentiveHead(classes, 4, heads_of(width)),
}


def heads_of(width: int) -> int:
    """16 as published, or the largest power of two that divides the width."""
    return next(n for n in (16, 8, 4, 2, 1) if width % n == 0)


def pooled(features: Features) -> np.ndarray:
    """Mean tokens float32 [n, views, D] of the videos that could be read."""
    rows = np.array_split(features.rows, -(-len(features.rows) // 256))
    return np.concatenate(
        [np.asarray(features.tokens[r], np.float32).mean(2) for r in rows]
    )


def score(
    head: str,
    train: Features,
    validation: Features,
    labels: Sequence[np.ndarray],
    means: Sequence[np.ndarray],
    *,
    classes: int,
    options: Options,
    progress: Callable[[int], None] = lambda step: None,
) -> tuple[dict[str, Any], Top]:
    """(numbers, predictions [validation videos, k]) of one head.

    The numbers are `accuracy`, and of trained heads settings and spread; the predictions
    are those of the first seed. labels, means: of the videos of both parts that could be
    read; means are `pooled`.
    """
    if HEADS[head] is None:
        top = top_of(nearest(means, labels, classes, options.k))
        return accuracy(top.classes[None], labels[1], classes), top
    module = HEADS[head](classes, train.tokens.shape[-1])
    fitted, selecting = selection(labels[0])
    if head == "linear":
        train, validation = standardized(means, fitted)

    def take(rows):
        """Tokens of the middle view."""
        return train.tokens[train.rows[fitted[rows]], train.tokens.shape[1] // 2]

    settings, seeds = options.grid.settings(), len(options.grid.seeds)
    asked = (
        (train, train.rows[selecting]),
        (validation, validation.rows),
    )
    size = fit.heads_at_once(module, take(np.arange(1)), options.head_gigabytes)
    size = min(size, len(settings))
    found: list[list[Top]] = [[], []]
    for start in range(0, len(settings), size):
        batches = fit.batches_of(
            take, labels[0][fitted], batch=options.head_batch, steps=options.steps
        )
        params = fit.fit_heads(
            module,
            batches,
            settings=settings[start : start + size],
            steps=options.steps,
            progress=lambda step, start=start: progress(
                min(start * options.steps + step * size, len(settings) * options.steps)
            ),
        )
        for tops, (part, rows) in zip(found, asked, strict=True):
            tops.append(top_of(probabilities(module, params, part, rows)))
    # Likeliest classes of every setting and seed: [settings, seeds, videos, k].
    choosing, scored = (
        Top(*(np.concatenate(x).reshape(-1, seeds, *x[0].shape[1:])
              for x in zip(*tops, strict=True)))
        for tops in found
    )  # fmt: skip
    right = choosing.classes[..., 0] == labels[0][selecting]
    shares = (scored.classes[..., 0] == labels[1]).mean((1, 2))
    best = int(right.mean((1, 2)).argmax())
    top = Top(scored.classes[best, 0], scored.probabilities[best, 0])
    return accuracy(scored.classes[best], labels[1], classes) | {
        "rate": settings[best * seeds].rate,
        "decay": settings[best * seeds].decay,
        "best": float(shares.max()),
        "spread": [float(shares.min()), float(shares.max())],
        "seeds": (scored.classes[best, ..., 0] == labels[1]).mean(-1).tolist(),
    }, top


def standardized(means: Sequence[np.ndarray], fitted) -> list[Features]:
    """Mean tokens with mean 0 and deviation 1 over the training videos `fitted`.

    A linear layer on features as they are would need thousands of steps. As a batch norm
    without weights does for I-JEPA's linear probes (arXiv 2301.08243, appendix).
    """
    x = means[0][fitted]
    mean, std = x.mean((0, 1)), x.std((0, 1)) + 1e-6
    return [
        Features(((x - mean) / std)[:, :, None], np.arange(len(x)), {}) for x in means
    ]


def nearest(means: Sequence[np.ndarray], labels, classes: int, k: int):
    """Votes of the nearest neighbors of each validation video: [n, classes], of sum 1."""
    bank, queries = means
    views, width = bank.shape[1:]
    votes = nearest_classes(
        bank.reshape(-1, width),
        np.repeat(labels[0], views),
        queries.reshape(-1, width),
        classes=classes,
        k=k,
    )
    votes = votes.reshape(-1, views, classes).mean(1)
    return votes / np.maximum(votes.sum(-1, keepdims=True), 1e-12)


def selection(labels) -> tuple[np.ndarray, np.ndarray]:
    """(rows to fit, rows to choose settings): every fifth video of each class, by order."""
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rank[rows] = np.arange(len(rows))
    held = rank % SELECT_ONE_IN == SELECT_ONE_IN - 1
    if not held.any():  # too few videos: settings are chosen on those that are fitted
        return np.arange(len(labels)), np.arange(len(labels))
    return np.flatnonzero(~held), np.flatnonzero(held)


def probabilities(module, params, features: Features, rows) -> np.ndarray:
    """Softmax of every head, averaged over views: [heads, videos, classes]."""
    found = []
    for part in np.array_split(rows, max(1, -(-len(rows) // 64))):
        x = np.asarray(features.tokens[part], np.float32)
        logits = fit.outputs_of(module, params, x.reshape(-1, *x.shape[2:]))
        p = jax.nn.softmax(logits, -1).reshape(len(logits), *x.shape[:2], -1)
        found.append(np.asarray(p.mean(2)))
    return np.concatenate(found, 1)
