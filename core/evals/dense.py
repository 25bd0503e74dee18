"""Scores of a linear head on every token: classes of patches, mean IoU and accuracy."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from core.evals import fit
from core.evals.classification import Options
from core.evals.extract import Features
from core.evals.measures import mean_of_known, resampled
from core.evals.regression import selection
from core.nn.layers import Dense


class PatchHead(nn.Module):
    """A linear layer on every token, for each of the `cells` that it covers."""

    classes: int
    cells: int = 1

    @nn.compact
    def __call__(self, tokens):
        """[B, N, D] -> [B, N cells, classes], cells of a token after one another."""
        x = Dense(self.classes * self.cells, ("embed", None), name="linear")(tokens)
        return x.reshape(len(tokens), -1, self.classes)


def token_cross_entropy(outputs, labels):
    """Mean over tokens: logits [b, N, classes], labels int [b, N] -> []."""
    return fit.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1))


def score_patches(
    train: Features,
    validation: Features,
    labels: tuple[np.ndarray, np.ndarray],
    *,
    classes: int,
    options: Options,
    cells: int = 1,
    progress: Callable[[int], None] = lambda step: None,
) -> dict[str, dict[str, Any]]:
    """{"miou": ..., "accuracy": ...} of a linear head on standardized tokens.

    Each is {its name: mean over seeds, "interval": 95% over clips, "seeds", "rate",
    "decay", "spread": range over all settings}. The setting with the best mean IoU on a
    fifth of the training clips is taken.

    Args:
      labels: of both parts, int [n, N cells], a class per token or per cell of a token.
      progress: called after steps, of options.steps.
    """
    rest, held = selection(np.arange(len(train.rows)))
    tokens = [
        np.asarray(part.tokens[part.rows, part.tokens.shape[1] // 2], np.float32)
        for part in (train, validation)
    ]
    middle, std = tokens[0][rest].mean((0, 1)), tokens[0][rest].std((0, 1)) + 1e-6
    tokens = [(x - middle) / std for x in tokens]
    settings, head = options.grid.settings(), PatchHead(classes, cells)
    params = fit.fit_heads(
        head,
        fit.batches_of(
            lambda rows: tokens[0][rest[rows]],
            labels[0][rest],
            batch=options.head_batch,
            steps=options.steps,
        ),
        settings=settings,
        steps=options.steps,
        loss=token_cross_entropy,
        progress=progress,
    )
    chosen, scored = (
        confusions(head, params, x, y, classes)
        for x, y in ((tokens[0][held], labels[0][held]), (tokens[1], labels[1]))
    )
    seeds = len(options.grid.seeds)
    ones = [np.ones((1, part.shape[1])) for part in (chosen, scored)]
    choice = np.asarray([mean_iou(ones[0], c)[0] for c in chosen]).reshape(-1, seeds)
    best = int(choice.mean(1).argmax())
    mine = scored[best * seeds : (best + 1) * seeds]
    weights, setting = resampled(np.arange(scored.shape[1])), settings[best * seeds]
    found = {}
    for name, measure in (("miou", mean_iou), ("accuracy", pixel_accuracy)):
        every = np.asarray([measure(ones[1], c)[0] for c in scored])
        drawn = np.mean([measure(weights, c) for c in mine], 0)
        low, high = np.percentile(drawn, (2.5, 97.5))
        own = every.reshape(-1, seeds)
        found[name] = {
            name: float(own[best].mean()),
            "interval": [float(low), float(high)],
            "seeds": own[best].tolist(),
            "rate": setting.rate,
            "decay": setting.decay,
            "spread": [float(own.mean(1).min()), float(own.mean(1).max())],
        }
    return found


def confusions(head, params, tokens, labels, classes: int) -> np.ndarray:
    """Tokens by truth and prediction: [heads, clips, classes, classes]."""
    found = []
    for start in range(0, len(tokens), 64):
        x, y = tokens[start : start + 64], labels[start : start + 64]
        guess = np.asarray(jnp.argmax(fit.outputs_of(head, params, x), -1))
        pairs = np.eye(classes)[guess]  # [heads, b, N, classes]
        found.append(np.einsum("bnc,hbnd->hbcd", np.eye(classes)[y], pairs))
    return np.concatenate(found, 1)


def mean_iou(weights, confusion):
    """Mean over classes of intersection over union: [W, n], [n, C, C] -> [W].

    Classes that are neither there nor predicted are left out.
    """
    total = np.einsum("wn,ncd->wcd", weights, confusion)
    hit = np.einsum("wcc->wc", total)
    union = total.sum(1) + total.sum(2) - hit
    return mean_of_known(hit / np.where(union > 0, union, np.nan))


def pixel_accuracy(weights, confusion):
    """Share of tokens that are right: [W, n], [n, C, C] -> [W]."""
    total = np.einsum("wn,ncd->wcd", weights, confusion)
    return np.einsum("wcc->w", total) / total.sum((1, 2))
