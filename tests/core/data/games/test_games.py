"""Played games: labels lie on the pixels of their objects, episodes repeat, bad names."""

import importlib.util
import sys

import numpy as np
import pytest

from core.data import source_names
from core.data.episodes.steps import check_steps
from core.data.games import atari, ram_objects

# Colors that only one object of Pong has on the screen.
COLORS = {"Player": (92, 186, 92), "Ball": (236, 236, 236), "Enemy": (213, 130, 74)}
PACKAGES = ("ale_py", "ocatari")
installed = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)),
    reason="needs requirements-games.txt and ocatari",
)


@pytest.fixture(scope="module")
def pong():
    return atari.play("pong", seed=0)


@installed
def test_labels_lie_on_the_pixels_of_their_objects(pong):
    image, names = pong["image"], atari.GAMES["pong"].objects
    assert image.shape[1:] == (160, 160, 3)  # nothing is resized, colors are exact
    for k, name in enumerate(names):
        shown = (image == COLORS[name]).all(-1)
        seen, present = shown.any((1, 2)), pong[atari.PRESENT][:, k]
        assert np.mean(seen != present) <= 0.01  # a ball behind a paddle, a serve
        for t in np.flatnonzero(seen & present):
            rows, columns = np.nonzero(shown[t])
            ends = np.array([columns.min() + columns.max(), rows.min() + rows.max()])
            away = pong[atari.POSITION][t, k] * 160 - (ends + 1) / 2
            assert np.abs(away).max() <= 1  # pixel
    assert 0.5 < pong[atari.PRESENT][:, names.index("Ball")].mean() < 1
    assert not pong[atari.POSITION][~pong[atari.PRESENT]].any()


@installed
def test_an_episode_is_whole_and_repeats(pong):
    recordings = source_names.recordings("atari:pong:4", "train")
    assert source_names.is_trajectories("atari:pong:4") and len(recordings) == 3
    steps = check_steps(recordings.load(0))
    for name, x in pong.items():
        np.testing.assert_array_equal(steps[name], x)
    assert steps["action"].shape[1] == recordings.about["action"][0]["classes"] == 6
    assert steps["is_first"].sum() == steps["is_last"].sum() == 1
    assert np.abs(steps["reward"]).sum() > 0  # someone scored
    other = atari.play("pong", seed=1)["image"]
    assert not np.array_equal(other, steps["image"])


@installed
@pytest.mark.parametrize("game", atari.GAMES)
def test_objects_of_every_game_move_in_the_picture(game, monkeypatch):
    monkeypatch.setattr(atari, "STEPS", 100)
    steps = atari.play(game, seed=3)
    assert steps["image"].shape == (100, 160, 160, 3)
    there, place = steps[atari.PRESENT], steps[atari.POSITION]
    assert there.shape[1] == len(atari.GAMES[game].objects) and there.any(0).all()
    assert 0 <= place.min() and place.max() <= 1
    for k in (0, atari.GAMES[game].target):
        assert place[there[:, k], k].std(0).max() > 0.02  # of the picture


@pytest.mark.parametrize(
    "name, said",
    [
        ("atari:pogn", "expected atari:GAME:EPISODES with one of boxing, breakout"),
        ("atari:pong:many", "has 'many' episodes; expected a number"),
        ("atari:pong:0", "has '0' episodes; expected a number"),
    ],
)
def test_unknown_games_are_refused(name, said):
    with pytest.raises(ValueError, match=said):
        source_names.recordings(name)


@pytest.mark.parametrize(
    "package, said",
    [("ale_py", "requirements-games.txt"), ("ocatari", "pip install --no-deps 'ocata")],
)
def test_a_missing_package_is_named(package, said, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    ram_objects.load_table.cache_clear()
    read = {"ale_py": atari.open_console, "ocatari": ram_objects.ObjectReader}[package]
    with pytest.raises(ValueError, match=said):
        read("pong", 1)


def test_keys_move_players_towards_their_target():
    assert atari.direction("UPRIGHTFIRE", False) == (1, -1)
    assert atari.direction("LEFTFIRE", True) == (0, 1)  # Pong's LEFT is down
    assert atari.direction("NOOP", False) == (0, 0)
