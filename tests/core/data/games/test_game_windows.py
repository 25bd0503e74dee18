"""Clips of recorded games: labels of a ball whose path is known in closed form."""

import dataclasses

import numpy as np
import pytest

from core.data.episodes.steps import episode_flags
from core.data.games.atari import POSITION, PRESENT
from core.data.games.windows import label, read_windows, turns

T, RATE, SPEED = 60, 10.0, 0.07
CLIP = {"frames": 3, "fps": 5.0, "size": 8, "horizon_s": 1.0}


@dataclasses.dataclass
class Pieces:
    """An episode in two pieces; a wave of triangles along x, nothing along y."""

    about: dict

    def __len__(self):
        return 2

    def load(self, index):
        part = slice(0, 40) if index == 0 else slice(40, T)
        return {name: x[part] for name, x in episode().items()}


def wave(t):
    """Place at step t: there and back again at SPEED between 0 and 1."""
    return 1 - np.abs((np.asarray(t) * SPEED) % 2 - 1)


def episode():
    place = np.stack([wave(np.arange(T)), np.full(T, 0.5)], -1)
    image = (
        np.zeros((T, 8, 8, 3), np.uint8)
        + np.arange(T, dtype=np.uint8)[:, None, None, None]
    )
    return {
        "image": image,
        "action": np.zeros((T, 1), np.float32),
        "reward": np.zeros(T, np.float32),
        **episode_flags(T, terminal=False),
        POSITION: place[:, None].astype(np.float32),
        PRESENT: (np.arange(T) != 47)[:, None],
    }


@pytest.fixture(scope="module")
def windows():
    about = {"rate": RATE, "names": {POSITION: ["Ball"]}}
    return read_windows(Pieces(about), **CLIP)


def test_clips_go_on_across_pieces(windows):
    assert len(windows) == T - 4 - 10  # four steps of a clip, ten of the horizon
    video = windows.take(np.array([38])).video([0])
    assert video[0, :, 0, 0, 0].tolist() == [38, 40, 42]


def test_position_and_velocity_are_those_of_the_last_frame(windows):
    last = np.arange(len(windows)) + 4
    place, moved = (windows.targets[f"{k}/Ball"] for k in ("position", "velocity"))
    np.testing.assert_allclose(place[:40, 0], wave(last[:40]), atol=1e-6)
    before = wave(last[:40] - 1)
    np.testing.assert_allclose(
        moved[:40, 0], (wave(last[:40]) - before) * RATE, atol=1e-4
    )
    assert not moved[:40, 1].any()
    # The ball is absent at step 47.
    assert np.isnan(place[43]).all() and np.isfinite(place[42]).all()
    assert np.isnan(windows.targets["velocity/Ball"][43:45]).all()


def test_the_next_turn_is_where_the_wave_turns(windows):
    # Turns are at the steps nearest to 1 / SPEED, 2 / SPEED and so on.
    turning = np.array([14, 29, 43, 57])  # 14.3, 28.6, 42.9, 57.1
    times, places = (
        windows.targets["bounce/time"][:, 0],
        windows.targets["bounce/place"],
    )
    for start, seconds in enumerate(times):
        place = places[start]
        last = start + 4
        following = turning[turning >= last]
        if len(following) and following[0] - last <= 10:
            assert seconds == pytest.approx((following[0] - last) / RATE)
            assert place[0] == pytest.approx(wave(following[0]), abs=1e-6)
        else:
            assert np.isnan(seconds) and np.isnan(place).all()
    assert np.isfinite(windows.targets["bounce/time"]).sum() > 20


def test_a_ball_that_rests_for_a_step_still_turns():
    place = np.array([[0, 0], [1, 0], [2, 0], [2, 0], [1, 0], [0, 0]]) / 10
    assert np.flatnonzero(turns(place)).tolist() == [3]
    gone = np.concatenate([place[:3], [[np.nan, np.nan]], place[3:]])
    assert not turns(gone).any()  # it may have been served anew


def test_a_jump_across_the_picture_is_no_movement():
    steps = episode() | {
        POSITION: (np.arange(T)[:, None, None] * 0.3 % 1) + np.zeros((1, 2))
    }
    moved = label(steps, ["Ball"], np.arange(2), 5, RATE)["velocity/Ball"][:, 0]
    known = np.isfinite(moved)
    np.testing.assert_allclose(moved[known], 3, atol=1e-4)
    assert 0.5 < known.mean() < 1


def test_recordings_without_labels_are_refused():
    with pytest.raises(ValueError, match="has no log/position; expected games"):
        read_windows(Pieces({"rate": RATE, "names": {}}), **CLIP)
    with pytest.raises(ValueError, match="has no episode of 104 steps; lower"):
        about = {"rate": RATE, "names": {POSITION: ["Ball"]}}
        read_windows(Pieces(about), **CLIP | {"horizon_s": 9.9})
