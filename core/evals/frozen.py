"""Classifies labelled videos from frozen features: heads, intervals, baselines, tables."""

import functools
import hashlib
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from core.base.files import write_json
from core.base.names import choose
from core.base.waiting import Stopped
from core.data.files.urls import is_url, open_url
from core.data.labelled import Labelled, count_classes
from core.data.views import read_views
from core.evals.classification import HEADS, Options, pooled, score
from core.evals.extract import Features, extract, feature_folder
from core.evals.statistics import representation
from core.method import Frozen

SAY_EVERY = 5.0  # seconds between lines of progress
RANKED = 4096  # training videos whose features are ranked


def evaluate_frozen(
    frozen: Frozen,
    state: Any,
    data: tuple[Labelled, Labelled],
    out,
    *,
    about: Mapping[str, Any],
    encoders: Sequence[str] = (),
    heads: Sequence[str] = (),
    options: Options,
    stopping: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Accuracy of heads on the features of each encoder; writes OUT/frozen.json and .md.

    Settings of a trained head are chosen on a fifth of the training videos, which it was
    not trained on; then it is scored on the validation videos. Each accuracy is a mean over
    seeds with a 95% bootstrap interval over videos. `best` is the best setting on the
    validation videos themselves, as published tables report it.

    Args:
      data: training and validation videos.
      about: provenance of the weights, written beside the results.
      encoders: names in `frozen.weights`, all if empty. heads: names in HEADS, all if empty.

    Raises ValueError for unknown names, Stopped if `stopping` became true.
    """
    chosen = choose(encoders, dict(frozen.weights), "encoder")
    heads = tuple(choose(heads, HEADS, "head"))
    out = pathlib.Path(out)
    clip = {"frames": frozen.frames, "fps": frozen.fps, "size": frozen.size}
    clip |= {"clips": options.clips, "views": options.views}
    counts = [count_classes(part.labels, part.classes) for part in data]
    report: dict[str, Any] = {
        "about": dict(about),
        "clip": clip,
        "videos": dict(zip(("train", "validation"), counts, strict=True)),
        "encoders": {},
    }
    for name, weights_of in chosen.items():
        weights = weights_of(state)
        encode = functools.partial(jax.jit(frozen.encode), weights)
        about_encoder = {"weights": weights_digest(weights), "encoder": name}
        parts = [
            features_of(encode, part, clip, about_encoder, out, options, stopping, say)
            for part in data
        ]
        means = [pooled(part) for part in parts]
        labels = [part.labels[f.rows] for part, f in zip(data, parts, strict=True)]
        found: dict[str, Any] = {"bad_videos": sum(len(f.bad) for f in parts)}
        some = means[0][:RANKED]
        found["representation"] = representation(
            some if options.views > 1 else some[:, 0]
        )
        for head in heads:
            say(f"{name}: {head}")
            total = options.steps * len(options.grid.settings())
            tick = progress_line(f"{name}: {head}: steps of all heads", total, say)
            found[head] = score(
                head,
                *parts,
                labels,
                means,
                classes=len(data[0].classes),
                options=options,
                progress=functools.partial(check, tick, stopping),
            )
        report["encoders"][name] = found
        write_json(out / "frozen.json", report)
        (out / "frozen.md").write_text(table(report))
    say(table(report))
    return report


def features_of(
    encode: Callable,
    part: Labelled,
    clip: Mapping[str, Any],
    about: Mapping[str, str],
    out: pathlib.Path,
    options: Options,
    stopping,
    say,
) -> Features:
    """The features of a part's videos, read from disk where they were computed before.

    about: which encoder `encode` is, by the digest of its weights.
    """

    def load(row: int):
        path = part.paths[row]
        source = open_url(path) if is_url(path) else str(pathlib.Path(part.root) / path)
        return read_views(source, **clip)

    about = {**about, "clip": clip, "root": part.root, "paths": part.paths}
    found = extract(
        feature_folder(out, about),
        encode,
        load,
        len(part.paths),
        batch=options.batch,
        workers=options.workers,
        progress=progress_line(f"{about['encoder']}: videos", len(part.paths), say),
        stopping=stopping,
    )
    if found is None:
        raise Stopped
    return found


def weights_digest(weights) -> str:
    """SHA-256 of all arrays of a pytree, in order."""
    total = hashlib.sha256()
    for x in jax.tree.leaves(weights):
        total.update(np.ascontiguousarray(jax.device_get(x)))
    return total.hexdigest()


def check(tick: Callable[[int], None], stopping: Callable[[], bool], done: int) -> None:
    """Report progress; raises Stopped where a stop was requested."""
    tick(done)
    if stopping():
        raise Stopped


def progress_line(what: str, total: int, say) -> Callable[[int], None]:
    """A function of what is done, which says so now and then, with the time that is left."""
    begun = last = time.monotonic()
    first: int | None = None

    def progress(done: int):
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if now - last < SAY_EVERY:
            return
        last = now
        rate = (done - first) / (now - begun)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
        say(f"{what} {done}/{total}{left}")

    return progress


def table(report: Mapping[str, Any]) -> str:
    """A Markdown table: a row per encoder and head."""
    lines = [
        "| encoder | head | accuracy | 95% interval | settings, lowest to highest | best |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in report["encoders"].items():
        for head in (h for h in HEADS if h in found):
            row = found[head]
            low, high = row["interval"]
            spread = " to ".join(f"{x:.3f}" for x in row.get("spread", ())) or "-"
            best = f"{row['best']:.3f}" if "best" in row else "-"
            lines.append(
                f"| {name} | {head} | {row['accuracy']:.3f} | {low:.3f} to {high:.3f} | "
                f"{spread} | {best} |"
            )
    return "\n".join(lines) + "\n"
