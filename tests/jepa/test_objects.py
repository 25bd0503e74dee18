"""Evaluation of objects: a dot that a linear map of pixels finds, on episodes apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small

from core.base.files import write_json
from core.base.waiting import Stopped
from core.config import load_method
from core.data.episodes.steps import episode_flags
from core.data.formats.chunks import ABOUT, Chunk, write_chunk
from core.data.games.atari import POSITION, PRESENT
from core.method import Watch
from core.parallel.layouts import unbox
from core.section import Section
from jepa.evals import objects
from jepa.evals.objects import make_objects
from jepa.nets.model import Encoder

T, SIDE, GRID = 24, 8, (2, 2, 2)
TARGETS = ("position/Ball", "velocity/Ball", "bounce/time", "bounce/place")


class State(NamedTuple):
    """The part of a state that the evaluation reads."""

    target: dict


def write_games(folder, episodes=60):
    """Episodes of a dot of one pixel that bounces between the four sides."""
    folder.mkdir()
    about = {"rate": 15.0, "names": {POSITION: ["Ball"]}}
    write_json(folder / ABOUT, about)
    for i in range(episodes):
        start = np.random.default_rng(i).integers(2 * SIDE, size=(2, 1))
        row, column = np.abs((start + np.arange(T)) % (2 * SIDE - 2) - SIDE + 1)
        image = np.zeros((T, SIDE, SIDE, 3), np.uint8)
        image[np.arange(T), row, column] = 255
        place = (np.stack([column, row], -1) + 0.5) / SIDE
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
    encoder = Encoder(width=24, depth=1, heads=2, hidden=32, patch=(2, 4, 4))
    patches = jnp.zeros((1, 1, 96)), jnp.zeros((1, 1), jnp.int32)

    def init(key):
        return State(encoder.init(key, *patches, grid=GRID)["params"])

    place = f"camera:{tmp_path / 'games'}"
    clip = {"source": place, "frames": 4, "fps": 15.0, "size": SIDE}
    twin = {"steps": 100, "batch": 16, "lr": 1e-2}
    counts = {
        "labels": (20, 400),
        "heads": ("ridge",),
        "encoders": objects.ENCODERS,
        "held_clips": 60,
        "horizon_s": 0.5,
    }
    evaluate = make_objects(
        encoder, GRID, init, data=Section(clip), seed=0, twin=twin, **counts
    )
    said = []
    state = unbox(jax.jit(lambda: init(jax.random.key(0)))())
    found = evaluate(state, Watch(said.append))
    ends = ("", "_low", "_high")
    assert set(found) == {
        f"{row}/{target}/ridge_{count}{end}"
        for row in (*objects.ENCODERS, objects.GAIN)
        for target in TARGETS
        for count in (20, 400)
        for end in ends
    } | {
        f"{row}/{kind}" for row in objects.ENCODERS for kind in ("position", "velocity")
    }
    # The mean over objects, of which there is one, from all labels.
    assert found["pixels/velocity"] == found["pixels/velocity/Ball/ridge_400"]
    assert said[-1].count("\n") == 2 + 2 * len(TARGETS)
    # Both are linear maps of pixels: of the last frame, and of the last two.
    assert found["pixels/position/Ball/ridge_400"] > 0.95
    assert found["pixels/velocity/Ball/ridge_400"] > 0.7
    # The state is the untrained one; the twin leaves its weights as they are.
    for target in TARGETS:
        name = f"{target}/ridge_20"
        assert found[f"trained/{name}"] == found[f"untrained/{name}"]
        assert all(found[f"{objects.GAIN}/{name}{end}"] == 0 for end in ends)
    assert (
        found["twin/bounce/time/ridge_400"]
        > found["untrained/bounce/time/ridge_400"] + 0.03
    )
    for row in objects.ENCODERS:
        name = f"{row}/position/Ball/ridge_400"
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_a_stop_ends_the_evaluation(tmp_path):
    write_games(tmp_path / "games", episodes=8)
    encoder = Encoder(width=24, depth=1, heads=2, hidden=32, patch=(2, 4, 4))
    place = f"camera:{tmp_path / 'games'}"
    clip = {"source": place, "frames": 4, "fps": 15.0, "size": SIDE}
    counts = {
        "labels": (20,),
        "heads": ("ridge",),
        "encoders": objects.ENCODERS,
        "held_clips": 5,
        "horizon_s": 0.5,
    }
    evaluate = make_objects(
        encoder, GRID, None, data=Section(clip), seed=0, twin={}, **counts
    )
    with pytest.raises(Stopped):
        evaluate(State({}), Watch(print, lambda: True))


def test_sources_without_games_are_refused():
    config = small()
    config.eval_steps.objects = -1
    counts = {"labels": (8,), "heads": ("ridge",), "held_clips": 4}
    config.objects = {
        **counts, "encoders": objects.ENCODERS, "horizon_s": 1.0, "twin": {},
    }  # fmt: skip
    evaluate = load_method(config).evals["objects"]
    with pytest.raises(
        ValueError, match="data.source is world; the evaluation objects"
    ):
        evaluate(None)
