"""Physics of the embedded world read from features, and surprise, with networks of numpy."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from core.base.waiting import Stopped
from core.data.bodies import tasks
from core.data.bodies.world import World
from core.method import Frozen, Watch
from jepa.evals import patch_readouts, physical, surprise, twins

PATCH, GRID = (2, 4, 4), (4, 8, 8)
TRAIN, VALIDATION = (World(seed, size=32, fps=4.0, level="plain") for seed in (1, 2))
WORLDS = {"train": TRAIN, "validation": VALIDATION}


def encode(weight, video):
    """Mean colors of patches in every frame pair, scaled: [B, 4 * 8 * 8, 6]."""
    B = len(video)
    x = video.reshape(B, 4, 2, 8, 4, 8, 4, 3).astype(jnp.float32).mean((4, 6))
    return weight * x.transpose(0, 1, 3, 4, 2, 5).reshape(B, -1, 6) / 100


FROZEN = Frozen(
    {
        "target": lambda state: np.float32(state),
        "untrained": lambda state: np.float32(0),
        "pixels": lambda state: np.float32(1),
    },
    encode,
    frames=8,
    fps=4.0,
    size=32,
)


def test_questions_are_answered_from_features(monkeypatch):
    monkeypatch.setattr(physical, "HEADS", ("ridge",))
    said = []
    evaluate = physical.make_physical(
        FROZEN, **WORLDS, train_clips=160, held_clips=80, steps=1
    )
    found = evaluate(1.0, Watch(said.append))
    for question in tasks.MEASURED:
        for name in ("trained", "untrained", "pixels"):
            key = f"{name}/{question}/ridge"
            assert found[f"{key}_low"] <= found[key] <= found[f"{key}_high"]
        assert f"copy_last/{question}" in found
    assert (
        found["trained/position/ridge"] > 0.6 > 0.1 > found["untrained/position/ridge"]
    )
    assert found["untrained/contact/ridge"] == 0.5
    assert found["trained/position/ridge"] == found["pixels/position/ridge"]
    row = next(line for line in said[-1].splitlines() if line.startswith("| position"))
    assert row.startswith(
        f"| position | r2 | ridge | {found['trained/position/ridge']:.2f}"
    )
    with pytest.raises(Stopped):
        evaluate(1.0, Watch(stopping=lambda: True))


def test_patches_are_read_and_drawn():
    evaluate = patch_readouts.make_dense(
        FROZEN,
        **WORLDS,
        grid=GRID,
        patch=PATCH,
        train_clips=40,
        held_clips=20,
        steps=40,
    )
    found = evaluate(1.0, Watch())
    assert found["trained/miou"] > 0.7 > found["nothing/miou"] + 0.3
    assert found["untrained/accuracy"] == pytest.approx(found["nothing/accuracy"])
    picture = found["components"]
    assert picture.dtype == np.uint8 and picture.shape[1] == 4 * 128 + 3 * 4
    # Rows: six clips, each with frames and two maps.
    assert picture.shape[0] == 18 * 128 + 17 * 4


def test_errors_are_those_of_predictions_from_the_past():
    """The predictor stub adds the mean of the context, the encoder stub sums patches."""
    t, cells = 3, 4
    shape = (2, t, 2, 2, 3)  # patches of one pixel
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    seen = []

    def apply_encoder(given, patches, index=None, *, grid):
        if index is not None:
            seen.append(np.asarray(index[0]))
        return given["params"] * patches

    def apply_predictor(given, context, index, target, *, grid, use):
        assert use == (1,)
        np.testing.assert_array_equal(
            np.concatenate([index[0], target[0]]), np.arange(t * cells)
        )
        mean = context.mean(1, keepdims=True) + given["params"]
        return jnp.repeat(mean, target.shape[1], 1)

    encoder = types.SimpleNamespace(apply=apply_encoder, patch=(1, 1, 1))
    predictor = types.SimpleNamespace(apply=apply_predictor)
    params = {"encoder": 2.0, "predictor": 0.5}
    found = surprise.predictor_errors(
        encoder, predictor, params, 3.0, video, grid=(t, 2, 2), use=1
    )
    pixels = (video / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    x = pixels.reshape(2, t, cells, 3)
    truth = 3 * x
    truth = truth - truth.mean(-1, keepdims=True)
    truth /= np.sqrt(truth.var(-1, keepdims=True) + 1e-5)
    wanted = []
    for s in (1, 2):
        guess = 2 * x[:, :s].reshape(2, -1, 3).mean(1) + 0.5
        wanted.append(np.abs(guess[:, None, None] - truth[:, s:]).mean((1, 2, 3)))
    np.testing.assert_allclose(found, np.stack(wanted, 1), rtol=1e-4)
    assert [len(index) for index in seen] == [4, 8]
    copied = surprise.copy_errors(jnp.asarray(x.reshape(2, -1, 3)), grid=(t, 2, 2))
    wanted = [np.abs(x[:, s:] - x[:, s - 1 : s]).mean((1, 2, 3)) for s in (1, 2)]
    np.testing.assert_allclose(copied, np.stack(wanted, 1), rtol=1e-5)


def test_weights_without_a_predictor_are_refused():
    models = surprise.make_surprise(None, None, None, grid=GRID, use=(0,), seed=0)
    state = types.SimpleNamespace(params={"predictor": None})
    with pytest.raises(ValueError, match="surprise needs a predictor"):
        models["trained"](state)


def test_twins_are_told_apart_by_what_they_show():
    """A body that vanished leaves less contrast; a blind model notices nothing."""
    world, asked = World(7, size=16, level="plain"), []

    def contrast(video):
        return video.std((1, 2, 3, 4))[:, None]

    def blind(video):
        asked.append(len(video))
        return np.ones((len(video), 2))

    models = {"contrast": lambda state: contrast, "blind": lambda state: blind}
    found = twins.make_twins(models, world=world, pairs=20)(None, Watch())
    assert found["blind/auc"] == found["blind/pairs"] == 0.5
    assert set(asked) == {32}
    kinds = {key.split("/")[-1] for key in found if key.startswith("blind/pairs/")}
    assert {k.removesuffix("_low").removesuffix("_high") for k in kinds} <= set(
        twins.KINDS
    )
    assert found["contrast/pairs/vanish"] == 0
