"""Surprise at videos of scenes that exist in a possible and an impossible version."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from core.base.files import write_json
from core.data.files.urls import is_url, open_url
from core.data.pairs import Scenes
from core.data.records import explain
from core.data.views import read_views
from core.evals.measures import cell, flat, measured
from core.evals.progress import watched
from core.method import Frozen, Watch


def evaluate_pairs(
    frozen: Frozen,
    state: Any,
    scenes: Scenes,
    out,
    *,
    about: Mapping[str, Any],
    clips: int,
    watch: Watch,
) -> dict[str, Any]:
    """Scores of every model of `frozen.surprise`; writes OUT/pairs.json and pairs.md.

    "auc": area under the ROC of the largest error of a video, impossible against possible.
    "pairs": share of pairs of a scene whose impossible video has the larger mean error.
    Intervals are over scenes. A video that cannot be read is named, and left out.

    about: provenance of the weights. clips: per video, evenly spaced. Raises ValueError if
    the method has no surprise or no scene can be read in both versions, Stopped if a stop
    was requested.
    """
    if not frozen.surprise:
        raise ValueError("--pairs needs a method that predicts later frames of a clip")
    models = {name: make(state) for name, make in frozen.surprise.items()}
    read = functools.partial(
        read_views, frames=frozen.frames, fps=frozen.fps, size=frozen.size, clips=clips
    )
    errors: dict[str, dict[int, np.ndarray]] = {name: {} for name in models}
    bad = {}
    for row in watched(range(len(scenes.paths)), "videos", watch):
        path = scenes.paths[row]
        source = (
            open_url(path) if is_url(path) else str(pathlib.Path(scenes.root) / path)
        )
        try:
            (video,) = read(source)
        except Exception as error:  # noqa: BLE001, a file can fail in any way
            bad[path] = explain(error)
            continue
        for name, model in models.items():
            errors[name][row] = np.asarray(model(video))
    found = {}
    for name, per_video in errors.items():
        found |= scored(name, per_video, scenes)
    report = {"about": dict(about), "clips": clips, "bad_videos": bad, "scores": found}
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "pairs.json", report)
    (out / "pairs.md").write_text(table(found, models))
    watch.say("\n" + table(found, models))
    for path, reason in bad.items():
        watch.say(f"not read: {path}: {reason}")
    return report


def scored(name: str, errors: Mapping[int, np.ndarray], scenes: Scenes) -> dict:
    """NAME/auc and NAME/pairs with their intervals over scenes.

    errors: row -> [clips, instants], of the videos that could be read.
    """
    rows = [row for row in errors]
    both = [
        (a, b)
        for a in rows
        for b in rows
        if scenes.scenes[a] == scenes.scenes[b]
        and scenes.possible[a]
        and not scenes.possible[b]
    ]
    if not both:
        raise ValueError("no scene has a possible and an impossible video to read")
    largest = np.asarray([errors[row].max() for row in rows])
    unlawful = np.asarray([not scenes.possible[row] for row in rows], np.float64)
    area = measured(
        "auc",
        largest[None, :, None],
        unlawful[:, None],
        [scenes.scenes[row] for row in rows],
    )
    gaps = np.asarray([errors[b].mean() - errors[a].mean() for a, b in both])
    right = (gaps > 0) + 0.5 * (gaps == 0)
    groups = [scenes.scenes[a] for a, _ in both]
    pairs = measured("mean", right[None, :, None], right[:, None], groups)
    return flat(f"{name}/auc", "auc", area) | flat(f"{name}/pairs", "mean", pairs)


def table(found: Mapping[str, float], names) -> str:
    """Markdown: a row per model."""
    lines = ["| model | area under the ROC | pairs |", "|---|---|---|"]
    for name in names:
        cells = [cell(found, f"{name}/{measure}") for measure in ("auc", "pairs")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
