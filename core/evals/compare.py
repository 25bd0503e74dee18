"""Runs of several methods side by side: what they read at equal FLOPs, and at equal time.

Reads the folders NAME_seedN of runs below a folder; writes there table.md, numbers.json,
curves.svg, and components.png of the pictures of their last evaluations. times.json, if it is
there, has the seconds of a step by NAME, in place of those that the runs took.
"""

import json
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from core.base.charts import Panel, line_charts
from core.base.files import write_json, write_text
from core.base.pictures import caption, encode_png, tile
from core.runs import goodput, restore, run_folder

TIMES = "times.json"
CURVED = ("trained/position", "trained/velocity")  # evaluated several times in a run
READ = ("position", "velocity", "miou")
BESIDE = ("trained", "untrained", "twin", "pixels")
PICTURE = "components_middle"
# Two-sided 95% quantiles of Student's t by degrees of freedom.
T95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Run(NamedTuple):
    """What a run found.

    flops, seconds: of one training step; seconds without evaluations. points: step ->
    numbers of its evaluations; step 0 has those of the untrained encoder, if known.
    """

    name: str
    seed: int
    steps: int
    flops: float
    seconds: float
    points: dict[int, dict[str, float]]
    folder: pathlib.Path


def compare(folder: pathlib.Path) -> None:
    """Write and print the comparison of all runs below `folder`.

    Raises ValueError if there are none, or one has not finished.
    """
    places = sorted(p.parent for p in folder.glob(f"*/{run_folder.CONFIG}"))
    if not places:
        raise ValueError(f"{folder} holds no runs; expected folders NAME_seedN of runs")
    runs = timed([read_run(place) for place in places], folder)
    by_name: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_name.setdefault(run.name, []).append(run)
    share_untrained(by_name)
    text = "\n".join([equal_flops(by_name), equal_time(by_name)])
    write_text(folder / "table.md", text)
    write_json(folder / "numbers.json", numbers(by_name))
    write_text(folder / "curves.svg", draw_curves(by_name))
    if picture := components(by_name):
        (folder / "components.png").write_bytes(picture)
    print(text)


def read_run(folder: pathlib.Path) -> Run:
    """The Run in a folder NAME_seedN; raises ValueError unless it has finished."""
    config = run_folder.read_config(folder)
    if not (folder / run_folder.METRICS).exists():
        raise ValueError(f"{folder} has not finished: it has no {run_folder.METRICS}")
    lines = (folder / run_folder.METRICS).read_text().splitlines()
    points: dict[int, dict[str, float]] = {}
    for line in map(json.loads, lines):
        found = {k: float(x) for k, x in line.items() if k.partition("/")[2] in READ}
        if found:
            points.setdefault(line["step"], {}).update(found)
    steps = config["steps"]
    if any(name not in points.get(steps, {}) for name in CURVED):
        raise ValueError(
            f"{folder} has not finished: {CURVED[0]} is not there at step {steps}"
        )
    spent = goodput.add_up(goodput.read_sessions(folder))
    return Run(
        name=folder.name.rpartition("_seed")[0],
        seed=config["seed"],
        steps=steps,
        flops=restore.open_run(folder).method.costs.flops,
        seconds=(spent["train"] + spent["data"]) / steps,
        points=points,
        folder=folder,
    )


def timed(runs: Sequence[Run], folder: pathlib.Path) -> list[Run]:
    """The runs with the seconds of `write_times`, if those are in `folder`.

    Raises ValueError if a run's name is not among them.
    """
    if not (folder / TIMES).exists():
        return list(runs)
    found = json.loads((folder / TIMES).read_text())
    if missing := {run.name for run in runs} - found.keys():
        raise ValueError(
            f"{folder / TIMES} has no {min(missing)!r}; write it again, or remove it"
        )
    return [run._replace(seconds=found[run.name]) for run in runs]


def write_times(
    folder: pathlib.Path, steps: Mapping[str, Callable[[], float]], *, rounds: int
) -> None:
    """Write and print the median seconds of the steps, each measured `rounds` times, in turns.

    steps: name of runs -> a function that measures their step.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, measure in steps.items():
            found[name].append(measure())
            print(f"{name}: {found[name][-1]:.4f} s a step", flush=True)
    medians = {name: statistics.median(times) for name, times in found.items()}
    write_json(folder / TIMES, medians)


def share_untrained(by_name: Mapping[str, Sequence[Run]]) -> None:
    """Begin all curves of a method with the untrained encoder of the run that has it."""
    for runs in by_name.values():
        ends = [run.points[run.steps] for run in runs]
        first = {
            name: mean
            for name in CURVED
            if math.isfinite(mean := spread(ends, f"untrained/{name[8:]}")[0])
        }
        for run in runs:
            run.points[0] = dict(first)


def equal_flops(by_name: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: what is read after the last step, a row per method and kind of features."""
    names = ["position R²", "velocity R²", "mean IoU"]
    head = ["method", "steps", "TFLOP", "minutes", "seeds", "features", *names]
    rows = []
    for name, runs in by_name.items():
        ends = [run.points[run.steps] for run in runs]
        about = [name, str(runs[0].steps), f"{total(runs[0]):.2f}"]
        about += [f"{minutes(runs):.1f}", str(len(runs))]
        for kind in BESIDE:
            found = [cell(spread(ends, f"{kind}/{what}")) for what in READ]
            rows.append([*about, kind, *found])
    return "## At equal FLOPs\n\n" + table(head, rows)


def equal_time(by_name: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: trained features after as long as the fastest method takes.

    Numbers are linear between the evaluations before and after that time.
    """
    seconds = 60 * min(map(minutes, by_name.values()))
    head = ["method", "steps", "TFLOP", "position R²", "velocity R²"]
    rows = []
    for name, runs in by_name.items():
        steps = seconds * len(runs) / sum(run.seconds for run in runs)
        row = [name, f"{steps:.0f}", f"{steps * runs[0].flops / 1e12:.2f}"]
        for what in CURVED:
            row.append(cell(spread_of([at_time(run, what, seconds) for run in runs])))
        rows.append(row)
    return f"## After {seconds / 60:.1f} minutes of training\n\n" + table(head, rows)


def at_time(run: Run, name: str, seconds: float) -> float:
    """A number after `seconds` of training, linear between evaluations; NaN before the
    first one. Time beyond the run's end is its end.
    """
    known = sorted((s, p[name]) for s, p in run.points.items() if name in p)
    times = [step * run.seconds for step, _ in known]
    return float(np.interp(seconds, times, [y for _, y in known], left=np.nan))


def total(run: Run) -> float:
    """TFLOP of all training steps of a run."""
    return run.steps * run.flops / 1e12


def minutes(runs: Sequence[Run]) -> float:
    """Of training, without evaluations; mean over runs."""
    return sum(run.steps * run.seconds for run in runs) / len(runs) / 60


def spread(
    points: Sequence[Mapping[str, float]], name: str
) -> tuple[float, float, int]:
    """`spread_of` a number of several evaluations, where it is there."""
    return spread_of([point[name] for point in points if name in point])


def spread_of(values: Sequence[float]) -> tuple[float, float, int]:
    """(mean, half of the 95% interval of the mean by Student's t, number of finite values).

    The mean is NaN for no values, the interval for less than two.
    """
    values = [x for x in values if math.isfinite(x)]
    n = len(values)
    if n < 2:
        return (values[0] if values else math.nan), math.nan, n
    return (
        float(np.mean(values)),
        float(T95[n - 2] * np.std(values, ddof=1) / n**0.5),
        n,
    )


def cell(found: tuple[float, float, int]) -> str:
    """Mean and interval for a table; a dash for no values."""
    mean, half, n = found
    if n < 2:
        return f"{mean:.3f}" if n else "-"
    return f"{mean:.3f} ± {half:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def numbers(by_name: Mapping[str, Sequence[Run]]) -> dict:
    """All that the table is made of, as JSON-like values."""
    return {
        name: [
            {"seed": run.seed, "steps": run.steps, "flops_per_step": run.flops}
            | {"seconds_per_step": run.seconds}
            | {"points": {str(k): run.points[k] for k in sorted(run.points)}}
            for run in runs
        ]
        for name, runs in by_name.items()
    }


def draw_curves(by_name: Mapping[str, Sequence[Run]]) -> str:
    """SVG: position and velocity over FLOPs and over time; thin lines are single seeds."""
    panels = []
    for what in CURVED:
        for axis, unit in (("TFLOP", 1e12), ("seconds of training", 1.0)):
            lines = {}
            for name, runs in by_name.items():
                curves = []
                for run in runs:
                    each = run.flops if axis == "TFLOP" else run.seconds
                    known = sorted(
                        (s, p[what]) for s, p in run.points.items() if what in p
                    )
                    curves.append([(s * each / unit, y) for s, y in known])
                lines[name] = curves
            panels.append(Panel(f"{what[8:]} R²", axis, lines))
    return line_charts(panels, columns=2)


def components(by_name: Mapping[str, Sequence[Run]]) -> bytes | None:
    """PNG: the newest PICTURE of the first run of each method, captioned; None for none."""
    found = []
    for name, runs in by_name.items():
        paths = sorted((runs[0].folder / "pictures").glob(f"*_{PICTURE}.png"))
        if paths:
            picture = cv2.imread(str(paths[-1]))
            assert picture is not None, paths[-1]
            picture = picture[..., ::-1]
            found.append(caption(picture, f"{name}: frames, trained, untrained"))
    rows = [found[i : i + 2] for i in range(0, len(found), 2)]
    return encode_png(tile(rows, pad=8)) if found else None
