"""Runs side by side: means, intervals, interpolation in time, and their pictures."""

import pathlib
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from core.base.charts import Panel, line_charts, ticks
from core.evals import compare


def run(name, seed, *, seconds, ends, steps=100, flops=2e10):
    """A run that was evaluated after half and all of its steps."""
    names = ("trained/position", "trained/velocity", "trained/miou")
    points = {steps: dict(zip(names, ends, strict=True))}
    points[steps // 2] = {name: x / 2 for name, x in points[steps].items()}
    if not seed:
        points[steps] |= {"untrained/position": 0.1, "untrained/velocity": 0.0}
    return compare.Run(name, seed, steps, flops, seconds, points, pathlib.Path("none"))


def two():
    fast = [run("fast", i, seconds=1, ends=(0.6 + i / 10, 0.2, 0.5)) for i in range(3)]
    slow = [run("slow", i, seconds=4, ends=(0.8, 0.4, 0.6)) for i in range(3)]
    by_name = {"fast": fast, "slow": slow}
    compare.share_untrained(by_name)
    return by_name


def test_intervals_are_those_of_student():
    """For 0.6, 0.7, 0.8: deviation 0.1, t of two degrees of freedom 4.303."""
    mean, half, n = compare.spread_of([0.6, 0.7, 0.8, np.nan])
    assert (mean, n) == (pytest.approx(0.7), 3)
    assert half == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert compare.cell(compare.spread_of([0.5])) == "0.500"
    assert compare.cell(compare.spread_of([])) == "-"


def test_rows_at_equal_flops():
    rows = compare.equal_flops(two()).splitlines()
    (mine,) = (x for x in rows if x.startswith("| fast") and "| trained" in x)
    cells = [x.strip() for x in mine.strip("|").split("|")]
    assert cells[:6] == ["fast", "100", "2.00", "1.7", "3", "trained"]
    assert cells[6:] == ["0.700 ± 0.248", "0.200 ± 0.000", "0.500 ± 0.000"]
    (bare,) = (x for x in rows if x.startswith("| slow") and "| untrained" in x)
    assert bare.endswith("| 0.100 | 0.000 | - |")


def test_after_equal_time_slow_methods_have_done_less():
    """100 s are all of the fast run and half of the way to the slow one's middle point."""
    rows = compare.equal_time(two()).splitlines()
    slow = [x.strip() for x in rows[-1].strip("|").split("|")]
    # Between 0.1 untrained and 0.4 after 200 s.
    assert slow == ["slow", "25", "0.50", "0.250 ± 0.000", "0.100 ± 0.000"]
    fast = [x.strip() for x in rows[-2].strip("|").split("|")]
    assert fast == ["fast", "100", "2.00", "0.700 ± 0.248", "0.200 ± 0.000"]


def test_times_are_medians_of_measurements_in_turns(tmp_path):
    clock = iter([3.0, 9.0, 1.0, 8.0, 2.0, 7.0])
    steps = {"fast": lambda: next(clock), "slow": lambda: next(clock)}
    compare.write_times(tmp_path, steps, rounds=3)
    runs = [x for runs in two().values() for x in runs]
    seconds = {run.name: run.seconds for run in compare.timed(runs, tmp_path)}
    assert seconds == {"fast": 2.0, "slow": 8.0}
    with pytest.raises(ValueError, match="times.json has no 'other'"):
        compare.timed([runs[0]._replace(name="other")], tmp_path)


def test_curves_pass_through_their_points():
    lines = {
        "a": [[(0, 0.0), (10, 1.0)], [(0, 0.0), (10, 0.5)]],
        "b": [[(5, float("nan"))]],
    }
    root = xml.fromstring(line_charts([Panel("title", "steps", lines)], columns=1))
    marks = [x for x in root.iter() if x.tag.endswith("polyline")]
    first, second, mean, *_ = (x.get("points").split() for x in marks)
    ys = [float(points[1].split(",")[1]) for points in (first, second, mean)]
    assert ys[0] < ys[2] < ys[1]  # SVG counts down
    assert 2 * ys[2] == pytest.approx(ys[0] + ys[1], abs=0.2)
    texts = {x.text for x in root.iter() if x.tag.endswith("text")}
    assert {"title", "steps", "a", "b"} <= texts


@pytest.mark.parametrize("values", [(0.0, 1.0), (-3.1, 0.2), (5.0, 5.0), (1e-6, 7e-6)])
def test_ticks_hold_all_values(values):
    low, high, step = ticks(values)
    assert low <= min(values) and max(values) <= high + 1e-12 and step > 0
    assert 1 <= round((high - low) / step) <= 9


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no runs"):
        compare.compare(tmp_path)
