"""Evaluation of objects: a dot that a linear map of pixels finds, on episodes apart."""

import jax
import numpy as np
import pytest
from small import small

from core.base.files import write_json
from core.config import load_method
from core.data.episodes.steps import episode_flags
from core.data.formats.chunks import ABOUT, Chunk, write_chunk
from core.data.games.atari import POSITION, PRESENT
from core.parallel.layouts import unbox

T, SIDE = 24, 16


def write_games(folder, episodes=60):
    """Episodes of a dot of one pixel that moves along a row and back."""
    folder.mkdir()
    about = {"rate": 15.0, "names": {POSITION: ["Ball"]}}
    write_json(folder / ABOUT, about)
    for i in range(episodes):
        rng = np.random.default_rng(i)
        row, start = rng.integers(SIDE), rng.integers(2 * SIDE)
        column = SIDE - 1 - np.abs((start + np.arange(T)) % (2 * SIDE - 2) - SIDE + 1)
        image = np.zeros((T, SIDE, SIDE, 3), np.uint8)
        image[np.arange(T), row, column] = 255
        place = (np.stack([column, np.full(T, row)], -1) + 0.5) / SIDE
        steps = {
            "image": image,
            "action": np.zeros((T, 1), np.float32),
            "reward": np.zeros(T, np.float32),
            **episode_flags(T, terminal=False),
            POSITION: place[:, None].astype(np.float32),
            PRESENT: np.ones((T, 1), bool),
        }
        write_chunk(folder, Chunk(i, 0, T), steps)


def test_pixels_find_a_dot_and_the_twin_learns_to(tmp_path):
    write_games(tmp_path / "games")
    config = small(data__size=SIDE, data__fps=15.0)
    config.data.source = f"camera:{tmp_path / 'games'}"
    config.encoder.patch = (2, 8, 8)
    config.masks.patterns.tubes.update(context=2, target=2)
    config.masks.patterns.steps.update(context=2, target=2)
    config.eval_steps.objects = -1
    config.encoder.attention = "plain"
    config.objects = {
        "train_clips": 300,
        "held_clips": 60,
        "horizon_s": 0.5,
        "twin": {"steps": 120, "batch": 16, "lr": 3e-3},
    }
    method = load_method(config)
    state = unbox(jax.jit(method.init)(jax.random.key(1)))
    before = jax.tree.map(np.array, state.target)
    found = method.evals["objects"](state)
    jax.tree.map(np.testing.assert_array_equal, before, state.target)
    targets = {"position/Ball", "velocity/Ball", "bounce/time", "bounce/place"}
    rows = ("trained", "untrained", "pixels", "twin")
    ends = ("", "/low", "/high")
    assert set(found) == {f"{r}/{t}{e}" for r in rows for t in targets for e in ends}
    # The place of a dot is a linear map of pixels; of three episodes, each is one row.
    assert found["pixels/position/Ball"] > 0.95
    assert found["twin/position/Ball"] > max(0.8, found["untrained/position/Ball"])
    for row in rows:
        name = f"{row}/position/Ball"
        assert found[f"{name}/low"] <= found[name] <= found[f"{name}/high"]


def test_sources_without_games_are_refused():
    config = small()
    config.eval_steps.objects = -1
    config.objects = {"train_clips": 8, "held_clips": 4, "horizon_s": 1.0, "twin": {}}
    evaluate = load_method(config).evals["objects"]
    with pytest.raises(
        ValueError, match="data.source is world; the evaluation objects"
    ):
        evaluate(None)
