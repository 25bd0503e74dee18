"""Predictions of heads: the five likeliest classes, numbers about them, files for people."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core.base import pictures
from core.base.files import write_text
from core.evals.statistics import bootstrap

KEPT = 5  # likeliest classes of a video
SIDE = 512  # pixels of the confusion picture, more for more classes


class Top(NamedTuple):
    """The likeliest classes, most likely first.

    classes: int [..., videos, k]. probabilities: float32, the same shape.
    """

    classes: np.ndarray
    probabilities: np.ndarray


def top_of(p: np.ndarray) -> Top:
    """The KEPT likeliest classes of probabilities [..., videos, classes]."""
    order = np.argsort(-p, -1, kind="stable")[..., :KEPT]
    return Top(order, np.take_along_axis(p, order, -1).astype(np.float32))


def accuracy(top: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """Numbers of predictions [seeds, videos, k] of labels [videos], means over seeds.

    accuracy, interval: of the likeliest class, and its 95% bootstrap interval over videos.
    top5: share of videos whose class is among the likeliest five; only where there are
    more. per_class: accuracy by number of the class, of those with videos. mean_per_class:
    their mean.
    """
    right = (top == labels[:, None]).mean(0)  # [videos, k]
    first = right[:, 0].astype(np.float64)
    per_class = {int(c): float(first[labels == c].mean()) for c in np.unique(labels)}
    found = {
        "accuracy": float(first.mean()),
        "interval": list(bootstrap(first)),
        "mean_per_class": float(np.mean(list(per_class.values()))),
        "per_class": per_class,
    }
    more = {"top5": float(right.sum(-1).mean())} if classes > KEPT else {}
    return found | more


def write_predictions(
    path: pathlib.Path,
    paths: Sequence[str],
    labels: np.ndarray,
    top: Top,
    names: Sequence[str],
) -> None:
    """A CSV file with a row per video: path, label, and the likeliest classes in order.

    names: of the classes of labels and predictions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = top.classes.shape[-1]
    header = ["path", "label"]
    for i in range(1, kept + 1):
        header += [f"class{i}", f"probability{i}"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for name, label, ids, p in zip(paths, labels, *top, strict=True):
        row = [name, names[label]]
        for i, share in zip(ids, p, strict=True):
            row += [names[i], f"{share:.4f}"]
        writer.writerow(row)
    write_text(path, text.getvalue())


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """uint8 picture [H, W, 3]: shares of the predictions (columns) of a class (rows).

    predicted, labels: [videos], classes numbered alike; predictions beyond are left out.
    """
    counts = np.zeros((classes, classes))
    inside = predicted < classes
    np.add.at(counts, (labels[inside], predicted[inside]), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = max(1, SIDE // classes)
    gray = np.kron(255 - np.rint(255 * shares), np.ones((cell, cell)))
    return np.repeat(gray.astype(np.uint8)[..., None], 3, -1)


def write_confusion(path: pathlib.Path, picture: np.ndarray) -> None:
    """Write the picture as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.encode_png(picture))
