"""Benchmarks and sweeps measure steps, data, start-up and checkpoints."""

import functools
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from clocks import STEADY, write_clock
from small import small, steady, use_one_device

from core.base.processes import usable_cpus
from core.data.clips import View
from core.data.decoding import decode_baseline
from core.evals.classification import HEADS
from core.method import Costs
from core.perf import bench, frozen, startup, sweep
from jepa.inputs import clips
from launch.config import changed, load, variants


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    use_one_device(monkeypatch)


def test_a_small_config_is_measured():
    found = json.loads(bench.as_json(bench.measure(steady(), steps=3)))
    assert found["steps"] == 3 and found["programs_compiled"] == 1
    assert 0 < found["step_seconds_min"] <= found["step_seconds_median"]
    assert 0 <= found["data_wait_share"] <= 1
    assert found["flops_per_second"] == pytest.approx(
        found["flops_per_step"] / found["step_seconds_median"]
    )
    assert found["host_peak_bytes"] > 50e6


def test_startup_and_checkpoints_are_measured(monkeypatch):
    monkeypatch.setattr(startup, "LARGE", 1e6)
    found = bench.measure(steady(), ("startup", "checkpoint"), steps=2)
    parts = ("plan", "state", "first_batch", "first_step")
    assert all(found[f"startup_{part}_seconds"] > 0 for part in parts)
    # Weights, EMA of the encoder, two moments.
    assert found["checkpoint_bytes"] > 3 * 4 * 850_000
    block = found["checkpoint_block_seconds"]
    assert found["checkpoint_block_share"] == pytest.approx(block / 300)
    scaled = block / 300 * 16e9 / found["checkpoint_bytes"]
    assert found["checkpoint_block_share_of_1b"] == pytest.approx(scaled)


def test_heads_on_frozen_features_are_measured(monkeypatch):
    monkeypatch.setattr(frozen, "HEADS", {"linear": HEADS["linear"], "knn": None})
    found = bench.measure(small(), ("probe",), steps=2)
    assert found["probe_encode_cpu_seconds"] > 0
    one, many = (found[f"probe_linear_seconds_{n}"] for n in (1, frozen.MANY))
    assert found["probe_linear_ratio"] == pytest.approx(many / one)


def test_a_sweep_times_every_combination_and_continues_after_an_error():
    text = "mesh.data=1,3 batch=8"
    assert sweep.choices("a=1,2 b.c=x,y") == [
        {"a": "1", "b.c": "x"},
        {"a": "1", "b.c": "y"},
        {"a": "2", "b.c": "x"},
        {"a": "2", "b.c": "y"},
    ]
    config = steady()
    pairs = variants(config, sweep.choices(text))
    measure = functools.partial(sweep.measure_on_one_batch, steps=2)
    good, bad = sweep.sweep(pairs, measure)
    assert good["step_seconds_min"] <= good["step_seconds_median"]
    assert good["clips_per_second"] == pytest.approx(8 / good["step_seconds_median"])
    assert sweep.row(good).startswith("mesh.data 1  batch 8  ")
    assert "needs 3 devices but there are 1" in bad["error"]
    assert bad["choice"] == {"mesh.data": "3", "batch": "8"}
    (late,) = sweep.sweep(pairs[:1], measure, seconds=-1)
    assert late["error"].startswith("not started")
    for wrong, words in (("mesh", "expected FIELD=VALUE"), ("", "is empty")):
        with pytest.raises(ValueError, match=words):
            sweep.choices(wrong)
    with pytest.raises(ValueError, match="did you mean mesh.data"):
        changed(config, {"mesh.dat": "3"})


def test_data_is_measured_alone():
    config = steady(data__workers=1)
    found = bench.measure(config, ("data", "step"), steps=8)
    video = 8 * 4 * 64 * 64 * 3  # clips, frames, pixels
    assert video < found["data_bytes_per_step"] < 1.1 * video
    assert found["data_clips_per_second"] > 0
    # CPU time cannot exceed wall time on all cores.
    core = found["data_clips_per_core_second"] * usable_cpus()
    assert core > 0.9 * found["data_clips_per_second"]
    assert found["data_cores_needed"] == pytest.approx(
        found["data_core_seconds_per_step"] / found["step_seconds_median"]
    )


def test_cpu_time_of_children_counts():
    before = bench.cpu_seconds()
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(1)\ninput()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.readline()
        spent = bench.cpu_seconds() - before
        process.communicate(b"\n")
    assert 0.45 <= spent < 2  # the kernel counts in ticks


def test_data_is_compared_with_decoding_alone(tmp_path, monkeypatch):
    for i in range(2):
        write_clock(tmp_path / f"{i}.mp4", STEADY)
    fields = {"data__source": str(tmp_path), "data__fps": 10.0}
    asked, frames = [], decode_baseline.decode_frames
    monkeypatch.setattr(
        decode_baseline, "decode_frames", lambda *a: asked.append(a) or frames(*a)
    )
    found = bench.measure(small(**fields), ("data",), steps=3)
    # Measured before and after, from random videos and times.
    assert len(asked) == 2 * clips.CLIPS
    assert {file for file, _, _ in asked} == {f"{tmp_path}/0.mp4", f"{tmp_path}/1.mp4"}
    assert found["data_share_of_decode_speed"] == pytest.approx(
        found["decode_seconds_per_clip"] * found["data_clips_per_core_second"]
    )
    assert found["data_clips_taken"] == 8 * (bench.FILL + 2 * 3)
    assert 0 <= found["data_wait_share_at_capacity"] < 1
    assert found["data_resident_bytes_2"] > 1e8


def test_the_decoding_benchmark_decodes_the_frames_of_a_clip(tmp_path, monkeypatch):
    path = write_clock(tmp_path / "c.mp4", STEADY)
    shown = []
    monkeypatch.setattr(
        decode_baseline, "to_rgb", lambda frame: shown.append(float(frame.time))
    )
    decode_baseline.decode_frames(path, View(frames=4, fps=5, size=16), 0.5)
    # A window of 0.8 s in 3 s of video may begin at 0 to 2.2 s; 0.5 of that is 1.1 s.
    np.testing.assert_allclose(shown, [1.1, 1.3, 1.5, 1.7], atol=1e-6)


def test_data_of_an_agent_is_not_timed():
    config = load("configs/dreamer.py:reach")
    with pytest.raises(ValueError, match="an agent's batches come from its acting"):
        bench.measure(config, ("data",), steps=2)


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    find = importlib.util.find_spec
    absent = ("torch", "stable_worldmodel")

    def known(name):
        return None if name in absent else find(name)

    monkeypatch.setattr(importlib.util, "find_spec", known)
    with pytest.raises(ValueError, match="--peer=torch needs torch: pip install -r"):
        bench.compare(small(), "torch", steps=2)
    with pytest.raises(ValueError, match="needs stable_worldmodel: name the Python of"):
        bench.compare(load("configs/lewm.py:two_rooms"), "stable_worldmodel", steps=2)


def test_the_first_step_counts_as_compilation():
    class Method:
        batch, unit, costs = 4, "clips", Costs(flops=6.0)

    class Plan:
        class step:
            _cache_size = staticmethod(lambda: 1)

    waits, times = np.array([9.0, 1, 1]), np.array([30.0, 2, 4])
    found = bench.summarize_times(Method, Plan, waits, times)
    assert found["compile_seconds"] == 27 and found["step_seconds_median"] == 3
    assert found["data_wait_share"] == 2 / 8 and found["clips_per_second"] == 1
    assert found["flops_per_second"] == 2
