"""Surprise: whether the error of a prediction tells unlawful clips from their lawful twins.

The protocol of arXiv 2502.11831: a model predicts features of later frames from earlier
ones, and its error is the surprise.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from core.evals.measures import cell, flat, measured

# name -> state -> function of uint8 clips [B, T, H, W, 3] that returns errors [B, instants]
Surprise = Mapping[str, Callable[[Any], Callable[[np.ndarray], np.ndarray]]]
TWINS = 2  # lawful, unlawful


def surprise_scores(errors) -> dict[str, dict[str, Any]]:
    """{"auc": of all clips, "pairs": of twins}, each with its interval over pairs.

    auc: area under the ROC curve of the largest error of a clip, unlawful against lawful.
    pairs: share of pairs whose unlawful twin has the larger mean error; ties count half.

    errors: [pairs, TWINS, instants], the lawful twin first.
    """
    n, twins, _ = errors.shape
    assert twins == TWINS, errors.shape
    largest, mean = errors.max(-1), errors.mean(-1)
    unlawful = np.tile([[0.0, 1.0]], (n, 1))
    right = (mean[:, 1] > mean[:, 0]) + 0.5 * (mean[:, 1] == mean[:, 0])
    area = measured(
        "auc",
        largest.reshape(1, -1, 1),
        unlawful.reshape(-1, 1),
        np.repeat(np.arange(n), TWINS),
    )
    return {
        "auc": area,
        "pairs": measured("mean", right[None, :, None], right[:, None]),
    }


def findings(name: str, errors, kinds: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The scores of one model by NAME/auc and NAME/pairs, and NAME/pairs/KIND of each kind.

    kinds: kind of violation -> which pairs have it, bool [pairs].
    """
    found = {}
    for measure, numbers in surprise_scores(errors).items():
        key = "mean" if measure == "pairs" else measure
        found |= flat(f"{name}/{measure}", key, numbers)
    for kind, rows in kinds.items():
        if rows.any():
            numbers = surprise_scores(errors[rows])["pairs"]
            found |= flat(f"{name}/pairs/{kind}", "mean", numbers)
    return found


def table(found: Mapping[str, float], names, kinds) -> str:
    """Markdown: a row per model; area under the ROC, pairs, and pairs by kind."""
    columns = ["auc", "pairs", *(f"pairs/{kind}" for kind in kinds)]
    columns = [c for c in columns if any(f"{name}/{c}" in found for name in names)]
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = [cell(found, f"{name}/{column}") for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
