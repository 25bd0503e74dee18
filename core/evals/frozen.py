"""Classifies labelled videos from frozen features: heads, intervals, baselines, tables."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from core.base.files import write_json, write_text
from core.base.names import choose
from core.base.waiting import Stopped
from core.data.labelled import Labelled, count_classes
from core.data.views import read_views
from core.evals.classification import HEADS, Options, pooled, score
from core.evals.extract import Features, extract, feature_folder
from core.evals.predictions import (
    Top,
    accuracy,
    confusion,
    top_of,
    write_confusion,
    write_predictions,
)
from core.evals.progress import progress_line
from core.evals.published import match_classes, published_probabilities
from core.evals.statistics import representation
from core.method import UNWATCHED, Classifier, Frozen, Watch

RANKED = 4096  # training videos whose features are ranked
PUBLISHED = "published"  # the name of a classifier that comes with the weights
ROWS = {PUBLISHED: "published head"}  # names of rows of the table


def evaluate_frozen(
    frozen: Frozen,
    state: Any,
    data: tuple[Labelled, Labelled],
    out,
    *,
    about: Mapping[str, Any],
    encoders: Sequence[str] = (),
    heads: Sequence[str] = (),
    classifier: Classifier | None = None,
    options: Options,
    watch: Watch = UNWATCHED,
) -> dict[str, Any]:
    """Accuracy of heads on the features of each encoder; writes OUT/frozen.json and .md.

    Settings of a trained head are chosen on a fifth of the training videos, which it was
    not trained on; then it is scored on the validation videos. Each accuracy is a mean over
    seeds with a 95% bootstrap interval over videos. `best` is the best setting on the
    validation videos themselves, as published tables report it. Predictions are written to
    OUT/predictions, confusions of classes to OUT/confusion.

    Args:
      data: training and validation videos.
      about: provenance of the weights, written beside the results.
      encoders: names in `frozen.weights`, all if empty. heads: names in HEADS, all if empty.
      classifier: one that was published for the first encoder: the head "published". It
        is the only head, and that encoder the only one, where none are named.

    Raises ValueError for unknown names, and classes that the classifier lacks; Stopped if a
    stop is requested.
    """
    out = pathlib.Path(out)
    if classifier is not None:
        heads, encoders = heads or (PUBLISHED,), encoders or tuple(frozen.weights)[:1]
    known = dict(HEADS) | ({PUBLISHED: None} if classifier else {})
    heads = tuple(choose(heads, known, "head"))
    chosen = choose(encoders, dict(frozen.weights), "encoder")
    if classifier is not None:
        match_classes(data[1].classes, classifier)  # raises before videos are read
    clip = clip_of(frozen, options)
    counts = [count_classes(part.labels, part.classes) for part in data]
    report: dict[str, Any] = {
        "about": dict(about),
        "clip": clip,
        "videos": dict(zip(("train", "validation"), counts, strict=True)),
        "encoders": {},
    }
    # A published classifier alone needs no videos to train on.
    used = data[1:] if heads == (PUBLISHED,) else data
    for name, weights_of in chosen.items():
        weights = weights_of(state)
        encode = functools.partial(jax.jit(frozen.encode), weights)
        digest = {"weights": weights_digest(weights), "encoder": name}
        parts = [
            features_of(encode, part, clip, digest, out, options, watch)
            for part in used
        ]
        report["encoders"][name] = score_heads(
            name,
            used,
            parts,
            out,
            heads=heads,
            classifier=classifier,
            options=options,
            watch=watch,
        )
        write_json(out / "frozen.json", report)
        write_text(out / "frozen.md", table(report))
    watch.say(table(report))
    return report


def score_heads(
    name: str,
    data: Sequence[Labelled],
    parts: Sequence[Features],
    out: pathlib.Path,
    *,
    heads: Sequence[str],
    classifier: Classifier | None,
    options: Options,
    watch: Watch,
) -> dict[str, Any]:
    """What is found of one encoder's features: statistics, and the numbers of every head.

    Args:
      data, parts: videos to score and, before them, videos to train on, which the published
        head alone does not need; their features.
    """
    means = [pooled(part) for part in parts]
    labels = [part.labels[f.rows] for part, f in zip(data, parts, strict=True)]
    some = means[0][:RANKED]
    found: dict[str, Any] = {
        "bad_videos": sum(len(f.bad) for f in parts),
        "bad": bad_videos(data, parts),
        "representation": representation(some if options.views > 1 else some[:, 0]),
    }
    for head in heads:
        watch.say(f"{name}: {ROWS.get(head, head)}")
        if head == PUBLISHED:
            assert classifier is not None
            truth = match_classes(data[-1].classes, classifier)[labels[-1]]
            names = classifier.classes or tuple(map(str, range(classifier.outputs)))
            tick = progress_line(f"{name}: {head}: videos", len(truth), watch)
            top = top_of(published_probabilities(classifier, parts[-1], tick))
            found[head] = accuracy(top.classes[None], truth, len(names))
        else:
            truth, names = labels[-1], data[-1].classes
            total = options.steps * len(options.grid.settings())
            found[head], top = score(
                head,
                *parts,
                labels,
                means,
                classes=len(names),
                options=options,
                progress=progress_line(
                    f"{name}: {head}: steps of all heads", total, watch
                ),
            )
        by_number = found[head].pop("per_class")
        found[head]["per_class"] = {names[i]: x for i, x in by_number.items()}
        write_files(out, f"{name}_{head}", data[-1], parts[-1], truth, top, names)
    return found


def clip_of(frozen: Frozen, options: Options) -> dict[str, Any]:
    """How clips are cut: arguments of `read_views`."""
    clip: dict[str, Any] = {
        "frames": options.frames or frozen.frames,
        "fps": frozen.fps,
        "size": frozen.size,
        "clips": options.clips,
        "views": options.views,
    }
    # Absent where it is not used: features of earlier versions are found again.
    return clip | ({"frame_step": options.frame_step} if options.frame_step else {})


def bad_videos(parts: Sequence[Labelled], features: Sequence[Features]) -> dict:
    """Reasons by path of the videos that cannot be read."""
    return {
        part.paths[row]: text
        for part, found in zip(parts, features, strict=True)
        for row, text in found.bad.items()
    }


def write_files(
    out: pathlib.Path,
    name: str,
    part: Labelled,
    features: Features,
    truth: np.ndarray,
    top: Top,
    names: Sequence[str],
) -> None:
    """Write predictions and confusions of a head.

    truth: numbers of the right classes among `names`, of the videos that could be read.
    """
    paths = [part.paths[row] for row in features.rows]
    file = out / "predictions" / f"{name}.csv"
    write_predictions(file, paths, truth, top, names)
    # Of a published classifier, only the classes of the labels.
    kept = np.unique(truth)
    place = np.full(len(names), len(kept))
    place[kept] = np.arange(len(kept))
    picture = confusion(place[top.classes[:, 0]], place[truth], len(kept))
    write_confusion(out / "confusion" / f"{name}.png", picture)


def features_of(
    encode: Callable,
    part: Labelled,
    clip: Mapping[str, Any],
    about: Mapping[str, str],
    out: pathlib.Path,
    options: Options,
    watch: Watch,
) -> Features:
    """The features of a part's videos, read from disk where they were computed before.

    about: which encoder `encode` is, by the digest of its weights. Raises Stopped.
    """
    about = {**about, "clip": clip, "root": part.root, "paths": part.paths}
    what = f"{about['encoder']}: videos"
    found = extract(
        feature_folder(out, about),
        encode,
        lambda row: read_views(part.video(row), **clip),
        len(part.paths),
        batch=options.batch,
        workers=options.workers,
        progress=progress_line(what, len(part.paths), Watch(watch.say)),
        stopping=watch.stopping,
    )
    if found is None:
        raise Stopped
    if found.bad:
        row, reason = next(iter(found.bad.items()))
        watch.say(
            f"{len(found.bad)} of {len(part.paths)} videos cannot be read, such as "
            f"{part.paths[row]}: {reason}"
        )
    return found


def weights_digest(weights) -> str:
    """SHA-256 of all arrays of a pytree, in order."""
    total = hashlib.sha256()
    for x in jax.tree.leaves(weights):
        total.update(np.ascontiguousarray(jax.device_get(x)))
    return total.hexdigest()


def table(report: Mapping[str, Any]) -> str:
    """A Markdown table: a row per encoder and head."""
    lines = [
        "| encoder | head | accuracy | 95% interval | top-5 | settings, lowest to highest | "
        "best |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in report["encoders"].items():
        for head in (h for h in (PUBLISHED, *HEADS) if h in found):
            row = found[head]
            low, high = row["interval"]
            spread = " to ".join(f"{x:.3f}" for x in row.get("spread", ())) or "-"
            best, top = (f"{row[k]:.3f}" if k in row else "-" for k in ("best", "top5"))
            lines.append(
                f"| {name} | {ROWS.get(head, head)} | {row['accuracy']:.3f} | "
                f"{low:.3f} to {high:.3f} | {top} | {spread} | {best} |"
            )
    return "\n".join(lines) + "\n"
