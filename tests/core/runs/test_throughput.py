"""Throughput, number formats, peak FLOP/s and health alarms."""

import math

import pytest

from core.base.text import duration, short
from core.evals.collapse import health_alarms
from core.hardware import mfu, peak_flops
from core.runs.throughput import (
    Interruptions,
    Rates,
    Throughput,
    device_memory,
    dues_left,
    fitting,
    grid,
    peak_host_bytes,
    progress_line,
)
from core.train import due


class Time:
    """A clock that a test sets."""

    t = 100.0

    def __call__(self):
        return self.t

    def passes(self, seconds):
        self.t += seconds


def test_throughput_separates_waiting_from_working_and_skips_pauses():
    time = Time()
    clock = Throughput(now=time)
    for _ in range(4):
        with clock.wait():
            time.passes(0.5)
        time.passes(1.5)
        clock.count(10)
    with clock.pause():
        time.passes(100)
        with clock.wait():  # an evaluation reads its own data
            time.passes(50)
    assert clock.report(30) == Rates(2.0, 5.0, 0.25, 60.0)
    with clock.pause():
        clock.report(29)  # a report does not end the pause
        time.passes(7)
    time.passes(4)
    clock.count(10)
    assert clock.report(10) == Rates(4.0, 2.5, 0.0, 40.0)
    assert all(math.isnan(x) for x in clock.report(10))


def test_throughput_continues_after_an_error():
    time = Time()
    clock = Throughput(now=time)
    with pytest.raises(RuntimeError), clock.pause():
        time.passes(5)
        raise RuntimeError
    time.passes(2)
    clock.count(1)
    assert clock.report(0) == Rates(2.0, 0.5, 0.0, 0.0)


def test_progress_line():
    rates = Rates(0.42, 58.1, 0.012, 581)
    line = progress_line(120, 1500, {"loss": 0.4123}, rates, unit="clips")
    assert line == "step 120/1500  loss 0.412  58.1 clips/s  wait 1.2%  ETA 9:41"
    later = progress_line(120, 1500, {}, rates, unit="clips", more=True)
    assert later == "step 120/1500  58.1 clips/s  wait 1.2%  ETA 9:41+"
    unknown = Rates(*[math.nan] * 4)
    line = progress_line(1, 9, {"loss": 2.0}, unknown, said="env steps 5")
    assert line == "step 1/9  loss 2.00  env steps 5  ETA ?:??"
    assert progress_line(0, 9, {}, unknown) == "step 0/9  ETA ?:??"


@pytest.mark.parametrize("every", [-1, 0, 1, 3, 5, 50])
def test_what_is_due_from_a_step_on_is_counted(every):
    dues = [due(step, every, 10) for step in range(1, 11)]
    assert [dues_left(every, step, 10) for step in range(1, 12)] == [
        sum(dues[step:]) for step in range(11)
    ]


def test_a_short_run_leaves_out_evaluations_of_a_long_one():
    every = {"health": 4, "probe": 10, "baselines": 0, "never": -1}
    assert fitting(every, 10) == every
    assert fitting(every, 9) == every | {"probe": -1, "baselines": -1}
    assert fitting({"final": 0, "never": -1}, 1) == {"final": 0, "never": -1}


def test_the_time_of_evaluations_still_due_is_added():
    every = {"health": 4, "probe": 0, "never": -1, "checkpoint": 5}
    interruptions = Interruptions(every, 10, {"health": 20.0, "checkpoint": 1.0})
    assert interruptions.left(1) == 3 * 20 + 2 and interruptions.unknown(1)
    assert interruptions.left(9) == 20 + 1
    interruptions.seconds["probe"] = 100.0
    assert interruptions.left(10) == 121 and not interruptions.unknown(10)
    with interruptions.timed("health"):
        pass
    assert interruptions.seconds["health"] < 1


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0:00"),
        (7.4, "0:07"),
        (59.6, "1:00"),
        (581, "9:41"),
        (3600, "1:00:00"),
        (3723, "1:02:03"),
        (3 * 86400 + 4 * 3600 + 5 * 60 + 6, "3d 04:05:06"),
        (math.inf, "?:??"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0"),
        (0.4123, "0.412"),
        (-58.123, "-58.1"),
        (12345.6, "12346"),
        (3.1e-5, "3.1e-05"),
        (math.nan, "nan"),
    ],
)
def test_short_numbers(number, text):
    assert short(number) == text


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5e", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1155e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA H20", None),
        ("TPU v4 lite", None),
        ("cpu", None),
    ],
)
def test_peaks(kind, peak):
    assert peak_flops(kind) == peak
    used = mfu(4e15, seconds=2.0, devices=8, device_kind=kind)
    assert used is None if peak is None else used == pytest.approx(2.5e14 / peak)


def test_memory_is_measured():
    assert 10 * 2**20 < peak_host_bytes() < 2**40
    assert all(size >= 0 for size in device_memory().values())


HEALTHY = {
    "target_std": 0.9,
    "rank_pooled": 60.0,
    "rank_tokens": 200.0,
    "width": 1024,
    "copy_ratio": 0.8,
}


def test_numbers_named_row_and_column_form_a_grid():
    numbers = {"loss": 1, "twin/position": 0.9, "raw/position": -0.25, "raw/speed": 2}
    assert grid(numbers) == [
        "      position  speed",
        "twin     0.900       ",
        "raw     -0.250   2.00",
    ]
    assert grid({"loss": 1.0}) == []


@pytest.mark.parametrize(
    "change, words",
    [
        ({"target_std": 0.04}, "targets have collapsed"),
        ({"target_std": math.nan}, "target_std is nan"),
        ({"rank_pooled": 40.0}, "pooled features are collapsing"),
        ({"rank_pooled": 1.9, "width": 32}, "pooled features are collapsing"),
        ({"rank_tokens": 40.0}, "token features are collapsing"),
        ({"copy_ratio": 1.0}, "no better than copying"),
    ],
)
def test_numbers_out_of_bounds_alarm(change, words):
    (alarm,) = health_alarms({**HEALTHY, **change})
    assert words in alarm and "\n" not in alarm


@pytest.mark.parametrize(
    "scalars",
    [
        {},
        {"loss": math.nan},
        HEALTHY,
        {**HEALTHY, "rank_pooled": 2.1, "rank_tokens": 2.1, "width": 32},
        # 16 vectors have a rank of at most 16, under a twentieth of the width.
        {**HEALTHY, "rank_pooled": 12.0, "rank_samples": 16},
        {"rank_pooled": 2.1},
    ],
)
def test_healthy_and_absent_numbers_do_not_alarm(scalars):
    assert health_alarms(scalars) == []
