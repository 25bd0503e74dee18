"""Trajectories in every format: read alike or rejected; clips of their cameras."""

import numpy as np
import pytest
import robots
from robots import LENGTHS, WRITERS, assert_same, expected, truth, whole

from core.data import source_names
from core.data.clips import View
from core.data.episodes.resample import resample_episode
from core.data.episodes.steps import check_steps, episode_flags
from core.data.records import BadSample
from core.prepare import run
from core.prepare.trajectory_pieces import TrajectoryPlan


@pytest.fixture(params=WRITERS)
def written(request, tmp_path, monkeypatch):
    """(format, path of a data set in it)"""
    if request.param == "minari":
        pytest.importorskip("minari")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "set"))
    return request.param, WRITERS[request.param](tmp_path / "set")


def test_every_format_is_read_alike(written):
    form, place = written
    assert source_names.is_trajectories(place)
    recordings = source_names.recordings(place)
    assert len(recordings) == len(LENGTHS)
    for i in range(len(LENGTHS)):
        found = check_steps(recordings.load(i))
        assert_same(whole(found), expected(form, i))
        part = {name: x[2:5] for name, x in found.items()}
        assert_same(part, {name: x[2:5] for name, x in expected(form, i).items()})


def test_resampling_jittered_time_loses_no_step():
    time = np.arange(20) / 10 + np.random.default_rng(0).uniform(-0.04, 0.04, 20)
    time[0] = 0
    steps = {"time": time, "x": np.arange(20), "action": np.ones((20, 1), np.float32)}
    steps |= {"reward": np.zeros(20)} | episode_flags(20, terminal=False)
    np.testing.assert_array_equal(
        resample_episode(steps, 10, "last")["x"], np.arange(20)
    )


def test_errors_for_missing_and_damaged_trajectories(tmp_path):
    robots.write_replay(tmp_path / "robot")
    with pytest.raises(ValueError, match="holds no trajectories .did you mean .*robot"):
        source_names.recordings(str(tmp_path / "robott"))
    old = robots.write_lerobot(tmp_path / "old", version="v1.6")
    with pytest.raises(
        ValueError, match="has LeRobot version v1.6; expected v2. or v3.x: convert"
    ):
        source_names.recordings(old)
    place = robots.write_lerobot(tmp_path / "new")
    info = tmp_path / "new" / "meta" / "info.json"
    info.write_text(info.read_text().replace('"data/chunk', '"../chunk'))
    with pytest.raises(
        BadSample, match="data_path is outside of the data set's folder"
    ):
        source_names.recordings(place).load(0)
    robots.write_lerobot(tmp_path / "cut")
    path = tmp_path / "cut" / "data" / "chunk-000" / "file-000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadSample, match="file-000.parquet has no footer: it is cut"):
        source_names.recordings(str(tmp_path / "cut")).load(0)


def test_images_in_parquet_and_other_columns(tmp_path):
    force = [np.arange(n, dtype=float).tolist() for n in LENGTHS]
    more = {"observation.force": force, "next.success": force}
    place = robots.write_lerobot(tmp_path / "set", as_video=False, **more)
    steps = source_names.recordings(place).load(1)
    np.testing.assert_array_equal(steps["images_top"][2:5], truth(1)["images_top"][2:5])
    np.testing.assert_array_equal(steps["force"], np.arange(12)[:, None])
    assert "log/next_success" in steps


def clip_from(pictures, start):
    """Every fourth picture from `start` on, four of them."""
    return pictures[np.minimum(start + 4 * np.arange(4), len(pictures) - 1)]


def test_clips_of_a_camera(tmp_path):
    """Frames at the requested rate within one episode, which may be stored in pieces."""
    place = robots.write_lerobot(tmp_path / "set")
    plan = TrajectoryPlan(place, held=0, piece=8)
    options = {"workers": 1, "shard_mb": 64, "say": id}
    run.prepare(run.TRAJECTORIES, plan, str(tmp_path / "ready"), **options)
    view = View(frames=4, fps=2.5, size=32, scale=(1, 1), aspect=(1, 1), flip=False)
    pictures = [truth(i)["images_top"] for i in range(len(LENGTHS))]
    # Only short episodes, or the short rest after a piece begins, repeat their last frame.
    alone = {(0, 0), (1, 0), (2, 0)}
    whole = alone | {(3, x) for x in range(18)}
    in_pieces = whole | {(1, 6), (2, 4), (3, 22)}
    for name, known in {
        f"camera:{tmp_path / 'ready'}": in_pieces,
        f"camera:{place}#images_top": whole,
    }.items():
        clips = source_names.videos(name, "", view, None)
        starts = set()
        owners = (0, 1, 1, 2, 2, 3, 3, 3, 3) if known == in_pieces else (0, 1, 2, 3)
        for index, owner in enumerate(owners):
            for seed in range(80 if LENGTHS[owner] > 13 else 5):
                item = clips.load(index, np.random.default_rng(seed))
                [found] = [
                    (which, start)
                    for which, start in in_pieces
                    if (item["video"] == clip_from(pictures[which], start)).all()
                ]
                last = len(pictures[found[0]]) - 1
                shown = np.minimum(found[1] + 4 * np.arange(4), last)
                assert item["repeated_frames"] == 4 - len(set(shown.tolist()))
                starts.add(found)
        assert starts == known
    with pytest.raises(BadSample, match="has no camera 'wrist'; it has images_top"):
        source_names.videos(f"camera:{place}#wrist", "", view, None).load(0, None)
    robots.write_replay(tmp_path / "replay")
    with pytest.raises(ValueError, match="has no rate in steps per second"):
        source_names.videos(f"camera:{tmp_path / 'replay'}", "", view, None)
