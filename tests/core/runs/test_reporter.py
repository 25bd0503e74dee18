"""Alarms that have to last are raised from the record, so also by a resumed run."""

import json
import math
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from core.evals.collapse import health_alarms
from core.evals.evaluate import report_findings
from core.method import Costs
from core.runs import lineage
from core.runs.findings import READINGS, LastingAlarm, raised_alarms
from core.runs.reporter import Reporter
from core.runs.throughput import Rates
from core.runs.writer import Writer

COPYING = "predicting is no better than copying"


def reporter(folder, start=0):
    """A Reporter that writes to `folder` after a resume at `start`."""
    config = ConfigDict({"steps": 9, "log_steps": 1, "save_steps": 0})
    config.update({"eval_steps": {"health": 4, "probe": -1}, "max_bad_steps": 3})
    opened = Reporter(folder, types.SimpleNamespace(), config, start)
    opened.writer = Writer(folder, start)
    return opened


def evaluate(opened, step, ratio, **numbers):
    numbers = {"copy_ratio": ratio, **numbers}
    found = numbers | {"alarms": health_alarms(numbers)}
    opened.evaluation(step, "health", lambda state: found, None)


def test_an_evaluation_in_training_is_in_the_lineage(tmp_path):
    opened = reporter(tmp_path)
    evaluate(opened, 4, math.nan, loss=0.5)
    opened.main = False  # of several processes, one writes
    evaluate(opened, 8, 0.5)
    opened.close()
    [line] = lineage.read(tmp_path / "lineage.jsonl")
    assert line["findings"] == {"copy_ratio": "nan", "loss": 0.5}
    assert (line["evaluation"], line["step"]) == ("health", 4)
    assert line["digest"] == "" and line["checkpoint"] == f"{tmp_path}/checkpoints/4"


def alarm_steps(text):
    lines = [line for line in text.splitlines() if "ALARM" in line]
    assert all(COPYING in line for line in lines)
    return [int(line.split(":")[0].removeprefix("step ")) for line in lines]


def test_an_alarm_that_has_to_last_needs_readings_in_a_row(tmp_path, capsys):
    opened = reporter(tmp_path)
    ratios = [1.5] * (READINGS - 1) + [0.9] + [1.0] * (READINGS + 1)
    for step, ratio in enumerate(ratios, 1):
        opened.writer.write(step, {"loss": 1.0})  # other lines do not count
        evaluate(opened, step, ratio)
    opened.close()
    assert alarm_steps(capsys.readouterr().out) == [2 * READINGS, 2 * READINGS + 1]


@pytest.mark.parametrize("resume", range(1, READINGS + 3))
def test_a_resumed_run_raises_the_same_alarms(tmp_path, capsys, resume):
    last = READINGS + 2
    opened = reporter(tmp_path)
    for step in range(1, resume + 1):
        evaluate(opened, step, 1.2)
    before = alarm_steps(capsys.readouterr().out)
    for step in range(resume + 1, last + 1):  # lost: no checkpoint was saved of it
        evaluate(opened, step, 0.5)
    opened.close()
    opened = reporter(tmp_path, resume)
    for step in range(resume + 1, last + 1):
        evaluate(opened, step, 1.2)
    opened.close()
    after = alarm_steps(capsys.readouterr().out)
    assert before + after == [READINGS, READINGS + 1, READINGS + 2]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (
            {"env_steps": 64, "episodes": 0},
            "loss 0.500  env steps 64  no episode has ended  ETA ?:??+",
        ),
        (
            {"score": 0.0, "size": 3},
            "loss 0.500  score 0  ETA ?:??+",
        ),
        ({"repeated_frames": 0}, "loss 0.500  ETA ?:??+"),
    ],
)
def test_the_progress_line_has_the_numbers_of_a_source(
    tmp_path, capsys, numbers, words
):
    opened = reporter(tmp_path)
    opened.method = types.SimpleNamespace(batch=8, unit="clips", costs=Costs())
    metrics = {"loss": np.float32(0.5), "bad_steps": np.int32(0)}
    report = {"seen": 8, "bad": 0, "new": [], "numbers": numbers}
    if "env_steps" in numbers:
        report["said"] = f"env steps {numbers['env_steps']}  no episode has ended"
    opened.clock.report = lambda left: Rates(*[math.nan] * 4)
    opened.waiting = 1, metrics, report
    opened.flush()
    opened.close()
    assert f"step 1/9  {words}" in capsys.readouterr().out


def test_the_time_left_counts_evaluations_of_the_run_before(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 4, "time/health_seconds": 60.0}\n'
    )
    opened = reporter(tmp_path, start=4)
    opened.method = types.SimpleNamespace(batch=8, unit="clips", costs=Costs())
    opened.clock.report = lambda left: Rates(1.0, 8.0, 0.0, 1.0 * left)
    metrics = {"loss": np.float32(0.5), "bad_steps": np.int32(0)}
    opened.waiting = 5, metrics, {"seen": 8, "bad": 0, "new": [], "numbers": {}}
    opened.flush()
    opened.close()
    assert capsys.readouterr().out.endswith(
        "ETA 2:04\n"
    )  # 4 s, at 8 and after the last


def test_collapse_is_raised_at_once(tmp_path, capsys):
    opened = reporter(tmp_path)
    evaluate(opened, 1, 1.2, target_std=0.01)
    evaluate(opened, 2, float("nan"))
    opened.close()
    out = capsys.readouterr().out
    assert "step 1: ALARM: targets have collapsed" in out and COPYING not in out
    assert "step 2: ALARM: copy_ratio is nan" in out


def test_one_evaluation_prints_an_alarm_that_has_to_last_as_a_note(tmp_path, capsys):
    numbers = {"copy_ratio": 1.2, "target_std": 0.01}
    report_findings(tmp_path, 7, "health", {"alarms": health_alarms(numbers)})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("step 7 health: ALARM: targets have collapsed")
    assert lines[2].startswith(f"step 7 health: note: {COPYING}")
    written = json.loads((tmp_path / "7.json").read_text())
    assert written["health"]["alarms"] == health_alarms(numbers)


def test_values_that_are_not_finite_count_as_out_of_bounds():
    alarm = LastingAlarm("useless", name="ratio", limit=1.0)
    lines = [{"ratio": x} for x in ("nan", "inf", 1, 2.0, 1.0)]
    assert raised_alarms(["other", alarm], lines) == ["other", "useless"]
    assert raised_alarms(["other", alarm], lines[1:]) == ["other"]
