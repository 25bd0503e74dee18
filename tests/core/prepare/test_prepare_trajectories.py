"""Prepared trajectories: pieces, resampling, video, damage, kills, Beam."""

import dataclasses
import errno
import json

import cv2
import numpy as np
import pytest
import robots
import tensorflow_datasets
from robots import LENGTHS, RATE, WRITERS, assert_same, expected, truth, whole

from core.data import source_names
from core.data.episodes.steps import is_observation
from core.data.formats.chunks import Chunk, write_chunk
from core.data.formats.prepared import PreparedPieces
from core.data.tfds import Shards
from core.prepare import cut_trajectories, run
from core.prepare.trajectory_pieces import TrajectoryPlan, load_prepared_steps


@pytest.fixture(params=["replay", "lerobot", "rlds"])
def prepared(request, tmp_path):
    """(format, function that prepares it and returns (folder, printed lines))."""
    place = WRITERS[request.param](tmp_path / "set")

    def make(name="ready", **fields):
        lines = []
        plan = TrajectoryPlan(place, **({"held": 0.3, "piece": 8} | fields))
        folder = tmp_path / name
        options = {"workers": 2, "shard_mb": 64, "say": lines.append}
        run.prepare(run.TRAJECTORIES, plan, str(folder), **options)
        return folder, lines

    return request.param, make


def whole_episodes(folder, split):
    """{recording: steps}, the concatenated pieces of a split."""
    shards = Shards(str(folder), split)
    pieces = PreparedPieces(shards)
    found = {}
    for i in range(len(shards)):
        source, start = shards[i]["source"].decode(), shards[i]["start"]
        steps = whole(pieces.load(i))
        assert start == sum(len(x["reward"]) for x in found.get(source, []))
        found.setdefault(source, []).append(steps)
    return {
        source: {k: np.concatenate([x[k] for x in parts]) for k in parts[0]}
        for source, parts in found.items()
    }


def test_prepared_trajectories_equal_the_recordings(prepared):
    form, make = prepared
    folder, lines = make()
    train, held = (whole_episodes(folder, split) for split in ("train", "validation"))
    assert held and not train.keys() & held.keys()
    assert len(train) + len(held) == len(LENGTHS)
    for steps in (train | held).values():
        i = LENGTHS.index(len(steps["reward"]))
        assert_same(steps, expected(form, i))
    report = json.loads((folder / "1.0.0" / "report.json").read_text())
    assert sum(x["steps"] for x in report["splits"].values()) == sum(LENGTHS)
    assert report["splits"]["train"]["recordings"] == len(train)
    assert any("state: float32 [2]" in line for line in lines)
    assert (folder / "1.0.0" / "contact_sheet.png").stat().st_size > 3000
    # tensorflow-datasets reads them itself.
    builder = tensorflow_datasets.builder_from_directory(str(folder / "1.0.0"))
    example = builder.as_data_source("train")[0]
    assert example["steps"]["images_top"].shape[1:] == (32, 32, 3)
    assert builder.info.features["steps"]["state"].shape == (None, 2)


def test_windows_start_anywhere_and_continue_in_the_next_piece(tmp_path):
    plan = TrajectoryPlan(robots.write_replay(tmp_path / "set"), held=0.0, piece=8)
    options = {"workers": 1, "shard_mb": 64, "say": id}
    run.prepare(run.TRAJECTORIES, plan, str(tmp_path / "ready"), **options)
    windows = source_names.trajectories(
        str(tmp_path / "ready"), "train", steps=10, apart=0, world=None
    )
    assert len(windows) == sum(-(-n // 8) for n in LENGTHS)
    stream = [truth(i) for i in range(len(LENGTHS))]
    stream = {k: np.concatenate([x[k] for x in stream]) for k in stream[0]}
    starts = set()
    for index in range(len(windows)):
        for seed in range(40):
            item = windows.load(index, np.random.default_rng(seed))
            [at] = np.flatnonzero((stream["state"] == item["state"][0]).all(-1))
            rows = (at + np.arange(10)) % sum(LENGTHS)
            starts.add(int(at))
            np.testing.assert_array_equal(item["state"], stream["state"][rows])
            np.testing.assert_array_equal(
                item["images_top"], stream["images_top"][rows]
            )
            np.testing.assert_array_equal(item["is_last"], stream["is_last"][rows])
            # The action before each step; zero at the first.
            np.testing.assert_array_equal(
                item["action"][1:], stream["action"][rows[:-1]]
            )
            assert not item["action"][0].any() and item["is_first"][0]
            np.testing.assert_array_equal(
                item["is_first"][1:], stream["is_first"][rows[1:]]
            )
    assert starts == set(range(sum(LENGTHS)))


def test_trajectories_are_resampled(tmp_path):
    place = robots.write_lerobot(tmp_path / "set")
    for rate, how in ((5, "last"), (5, "sum"), (5, "mean"), (20, "last"), (10, "sum")):
        plan = TrajectoryPlan(place, rate=rate, actions=how)
        for i, n in enumerate(LENGTHS):
            raw, steps = (
                truth(i),
                whole(load_prepared_steps(plan, source_names.recordings(place), i)),
            )
            at = np.minimum(np.arange(len(steps["reward"])) * RATE / rate, n - 1)
            near = np.ceil(at - 0.5).astype(int)
            near[-1] = n - 1
            np.testing.assert_allclose(np.diff(steps["time"]), 1 / rate)
            np.testing.assert_array_equal(steps["state"], raw["state"][near])
            np.testing.assert_array_equal(steps["images_top"], raw["images_top"][near])
            assert steps["is_last"].sum() == steps["is_last"][-1] == 1
            assert steps["is_terminal"][-1] == raw["is_terminal"][-1]
            # The sum of rewards does not depend on the rate.
            assert steps["reward"].sum() == pytest.approx(raw["reward"].sum())
            done, full = steps["action"], raw["action"]
            if how == "sum":
                np.testing.assert_allclose(done.sum(0), full.sum(0), rtol=1e-5)
            if rate == 5 and n % 2:  # the last step is on the grid
                pairs = full[:-1].reshape(-1, 2, 2)
                means = {
                    "last": pairs[:, 1],
                    "sum": pairs.sum(1),
                    "mean": pairs.mean(1),
                }
                np.testing.assert_allclose(done[:-1], means[how], 1e-5, 1e-6)
            if rate == 20:
                np.testing.assert_array_equal(done, full[near])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"action": np.full((7, 2), np.nan)},
            "'action' is not finite at step 0",
        ),
        ({"state": np.zeros((6, 2))}, "'state' has 6 steps, not 7"),
        (
            {"time": np.array([0.0, 0.1, 0.2, 0.15, 0.4, 0.5, 0.6])},
            "time does not rise at step 3: 0.1500 s after 0.2000 s",
        ),
        ({"time": np.zeros(7)}, "time does not rise at step 1"),
        ({"reward": None}, "has no 'reward'"),
    ],
)
def test_bad_recordings_are_named(changes, words, tmp_path):
    (tmp_path / "set").mkdir()
    for i, n in enumerate(LENGTHS):
        steps = truth(i) | (changes if i == 0 else {})
        steps = {k: x for k, x in steps.items() if x is not None}
        write_chunk(tmp_path / "set", Chunk(i, 0, n), steps)
    lines = []
    options = {"workers": 2, "shard_mb": 64, "say": lines.append}
    plan = TrajectoryPlan(str(tmp_path / "set"))
    folder = run.prepare(run.TRAJECTORIES, plan, str(tmp_path / "ready"), **options)
    report = json.loads((folder / "report.json").read_text())
    [(name, reason)] = report["bad"].items()
    assert name == "000000-000000000000-000007.npz" and words in reason
    assert any(name in line and words in line for line in lines)
    assert sum(x["recordings"] for x in report["splits"].values()) == 3


def test_large_images_become_video_and_chosen_arrays_are_kept(tmp_path):
    place = robots.write_lerobot(tmp_path / "set")
    keep = (("image", "images_top"), ("place", "state"))
    plan = TrajectoryPlan(
        place, size=160, keep=keep, units=(("place", "m"),), piece=16, held=0
    )
    options = {"workers": 2, "shard_mb": 64, "say": id}
    folder = run.prepare(run.TRAJECTORIES, plan, str(tmp_path / "ready"), **options)
    pieces = PreparedPieces(Shards(str(folder), "train"))
    assert pieces.about == {
        "names": {"place": ["pan", "lift"], "action": ["pan", "lift"]},
        "units": {"place": "m"},
        "rate": 10,
    }
    lengths = [len(pieces.load(i)["reward"]) for i in range(len(pieces))]
    assert lengths == [7, 12, 9, 15, 15]
    steps = pieces.load(4)
    assert {"image", "place"} == {name for name in steps if is_observation(name)}
    raw = truth(3)
    for cut in (slice(0, 15), slice(3, 7)):
        found = steps["image"][cut]
        for picture, true in zip(found, raw["images_top"][15:][cut], strict=True):
            large = cv2.resize(true, (160, 160), interpolation=cv2.INTER_AREA)
            assert np.abs(picture.astype(int) - large).mean() < 4
    np.testing.assert_array_equal(steps["place"], raw["state"][15:])


def test_a_pipeline_of_beam_prepares_the_same(prepared):
    pytest.importorskip("apache_beam")
    form, make = prepared
    here, _ = make()
    there = here.with_name("there")
    plan = TrajectoryPlan(str(here.with_name("set")), held=0.3, piece=8)
    if form == "rlds":
        plan = dataclasses.replace(plan, place=f"{plan.place}/episodes")
    options = {"shard_mb": 64, "say": id}
    run.prepare_on_beam(
        run.TRAJECTORIES, plan, str(there), "runner=DirectRunner", **options
    )
    for split in ("train", "validation"):
        one, other = (whole_episodes(folder, split) for folder in (here, there))
        assert one.keys() == other.keys()
        for name in one:
            assert_same(other[name], one[name])


def test_units_of_a_mixture_agree(tmp_path):
    place = robots.write_replay(tmp_path / "set")
    options = {"workers": 1, "shard_mb": 64, "say": id}
    for name, unit in (("a", "rad"), ("b", "deg"), ("c", "rad")):
        plan = TrajectoryPlan(place, units=(("state", unit),))
        run.prepare(run.TRAJECTORIES, plan, str(tmp_path / name), **options)

    def mixed(*parts):
        text = " + ".join(str(tmp_path / part) for part in parts)
        return source_names.trajectories(text, "train", steps=4, apart=0, world=None)

    assert len(mixed("a", "c")) == 2 * len(mixed("a"))
    with pytest.raises(ValueError, match="state is in rad in .*/a but in deg in .*/b;"):
        mixed("a", "b")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"units": (("stat", "m"),)},
            "units has the name 'stat', which .* does not have; it has action, .*, state,",
        ),
        (
            {"keep": (("x", "image"),)},
            "cannot be read: 000000-0.*.npz has no 'image'; it has action, im",
        ),
        ({"keep": (("reward", "state"),)}, "new name 'reward', which the schema has;"),
        (
            {"keep": (("a", "state"), ("a", "images_top"))},
            "new name 'a', which it has twice; choose another name",
        ),
        ({"keep": (("a b", "state"),)}, "keep has the new name 'a b'; use letters"),
        ({"actions": "most"}, "actions is 'most'; expected one of last, sum, mean"),
        ({"rate": -1}, "rate is -1; use 0 or more"),
        ({"held": 1.5}, "held is 1.5; use 0 or more and less than 1"),
    ],
)
def test_mistakes_raise_at_once(fields, words, tmp_path):
    place = robots.write_replay(tmp_path / "set")
    with pytest.raises(ValueError, match=words):
        cut_trajectories.cut_recordings(
            TrajectoryPlan(place, **fields), tmp_path / "work"
        )
    assert not (tmp_path / "work").exists()


def test_a_crash_costs_one_recording(tmp_path, monkeypatch):
    """The rest of a block whose process died twice is cut by other processes."""
    plan, runs = TrajectoryPlan(robots.write_replay(tmp_path / "set")), []

    def run_all(jobs, work, *, workers, timeout_s, on_lost):
        runs.append([len(block) for _, block in jobs.values()])
        for home, (plan, block) in jobs.items():
            for index, at, name in block:
                if index in (1, 2):
                    on_lost(home, "its process ended with exit code -11", plan, block)
                    break
                cut_trajectories.cut_block(home, plan, [(index, at, name)])
            yield home

    monkeypatch.setattr(cut_trajectories.parallel_work, "run_all", run_all)
    monkeypatch.setattr(cut_trajectories, "BLOCK", 3)
    seen = []
    facts = cut_trajectories.cut_recordings(
        plan, tmp_path / "work", workers=1, progress=lambda *x: seen.append(x)
    )
    assert runs == [[2, 2], [1]]
    bad = ["ended with exit code -11" in x["bad"] for x in facts.values()]
    assert bad == [False, True, True, False]
    assert [x["steps"] for x in facts.values()] == [LENGTHS[0], 0, 0, LENGTHS[3]]
    assert seen[0] == (0, 4) and seen[-1] == (4, 4)


def test_a_full_disk_is_not_a_bad_recording(tmp_path, monkeypatch):
    plan = TrajectoryPlan(robots.write_replay(tmp_path / "set"))

    def full(path, piece):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cut_trajectories, "write_piece", full)
    home = tmp_path / "home"
    with pytest.raises(OSError, match="No space left"):
        cut_trajectories.cut_block(None, plan, [(0, home, "x")])
    assert not cut_trajectories.is_cut(plan, home)


def test_what_is_cut_is_not_cut_again(tmp_path, monkeypatch):
    plan = TrajectoryPlan(robots.write_replay(tmp_path / "set"), piece=8)
    work = tmp_path / "work"
    first = cut_trajectories.cut_recordings(plan, work, workers=2)
    stamps = {path: path.stat().st_mtime_ns for path in work.glob("*/*")}
    assert cut_trajectories.cut_recordings(plan, work, workers=2) == first
    assert {path: path.stat().st_mtime_ns for path in work.glob("*/*")} == stamps
    other = dataclasses.replace(plan, piece=4)
    assert cut_trajectories.cut_recordings(other, work, workers=2) != first
