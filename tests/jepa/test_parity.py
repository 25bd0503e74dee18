"""Outputs of transformers' VJEPA2Model, recorded and live, are reproduced."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_vjepa2 import FIXTURE, Model, clip_of, random_model, write

from core.export import artifacts
from core.nn.layers import normalize
from core.nn.token_order import take
from jepa.losses.masked import masked_l1, token_weights
from jepa.nets.model import grid_of
from jepa.weights import hf_weights
from jepa.weights.model_card import usage_hf

KINDS = ("context", "target")


@pytest.fixture(scope="module")
def io():
    with np.load(FIXTURE / "io.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def ours(io):
    """Every recorded array that concerns encoder and predictor, computed by us."""
    with jax.default_matmul_precision("highest"):
        model = Model(*hf_weights.read_hf(FIXTURE))
        out = jax.jit(lambda io: compute(model, io))(io)
    return {name: np.asarray(x) for name, x in out.items()}


def compute(model, io):
    video = clip_of(io["video"])
    grid = grid_of(video.shape, model.encoder.patch)
    embedded, after = model.first_block(video)
    features = model.encode(video)
    every = jnp.broadcast_to(jnp.arange(features.shape[1]), features.shape[:2])
    normed = normalize(features, eps=1e-5)
    out = {
        "patch_embeddings": embedded,
        "hidden_after_block0": after,
        "last_hidden_state": features,
        "pred_all_last_hidden_state": model.predict(features, every, every, grid),
        "short_last_hidden_state": model.encode(video[:1, :6]),
        "image_last_hidden_state": model.encode(video[:1, :1]),
        "offgrid_true_last_hidden_state": model.encode(clip_of(io["offgrid_video"])),
    }
    for name in "ab":
        context, target = (
            jnp.asarray(io[f"{name}_{m}_mask"], jnp.int32)
            for m in ("context", "target")
        )
        out[f"{name}_masked_hidden_state"] = take(features, context)
        out[f"{name}_pred_last_hidden_state"] = model.predict(
            take(features, context), context, target, grid
        )
        if name == "a":
            student = model.encode(video, context)
            guess = model.predict(student, context, target, grid)
            truth, sizes = take(normed, target), (target.shape[1],)
            weight = token_weights(jnp.ones(target.shape, bool), sizes)
            loss, _ = masked_l1(guess, truth, weight, sizes)
            out |= {
                "a_target_hidden_state": take(features, target),
                "a_student_hidden_state": student,
                "a_student_pred_last_hidden_state": guess,
                "a_target_normed": truth,
                "a_l1_loss": loss,
            }
    return out


COMPUTED = (
    "patch_embeddings", "hidden_after_block0", "last_hidden_state",
    "pred_all_last_hidden_state", "short_last_hidden_state", "image_last_hidden_state",
    "offgrid_true_last_hidden_state", "a_masked_hidden_state", "a_target_hidden_state",
    "a_pred_last_hidden_state", "a_student_hidden_state",
    "a_student_pred_last_hidden_state", "a_target_normed", "a_l1_loss",
    "b_masked_hidden_state", "b_pred_last_hidden_state",
)  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_recorded_outputs_are_reproduced(name, ours, io):
    atol = 1e-6 if name == "patch_embeddings" else 2e-5
    gap = artifacts.check_same({name: ours[name]}, {name: io[name]}, atol=atol)
    print(f"{name}: {gap:.2e}")


def test_every_recorded_output_is_compared(ours, io):
    given = {"video", "offgrid_video", *(f"{m}_{k}_mask" for m in "ab" for k in KINDS)}
    elsewhere = {"offgrid_hf_last_hidden_state"}
    elsewhere |= {name for name in io if name.startswith(("probe_", "raw_"))}
    assert set(ours) == set(COMPUTED) == set(io) - given - elsewhere


@pytest.fixture(scope="module")
def transformers():
    """The library, its own and torch's warnings silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch")
        return pytest.importorskip("transformers")


def load(transformers, folder):
    """AutoModel of a folder; nothing may be missing, left over or misshapen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, report = transformers.AutoModel.from_pretrained(
            folder, output_loading_info=True
        )
    assert not any(report.values()), report
    return model.eval()


def run(model, video, context=None, target=None):
    """(features, predictions) of transformers, without masks or with one set."""
    import torch

    masks = {}
    if context is not None:
        masks = {
            "context_mask": [torch.tensor(np.array(context), dtype=torch.int64)],
            "target_mask": [torch.tensor(np.array(target), dtype=torch.int64)],
        }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model(pixel_values_videos=torch.tensor(video), **masks)
    hidden = (out.last_hidden_state, out.predictor_output.last_hidden_state)
    return tuple(x.numpy() for x in hidden)


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False}, {"eps": 1e-3}])
def test_transformers_loads_and_agrees(changes, transformers, tmp_path, io):
    encoder, predictor, params = random_model(**changes)
    write(tmp_path, params, encoder, predictor)
    theirs, ours = load(transformers, tmp_path), Model(encoder, predictor, params)
    context, target = (jnp.asarray(io[f"b_{k}_mask"], jnp.int32) for k in KINDS)
    features = ours.encode(clip_of(io["video"]))
    guess = ours.predict(take(features, context), context, target, (4, 3, 3))
    pair = {"features": np.asarray(features), "guess": np.asarray(guess)}
    other = dict(zip(pair, run(theirs, io["video"], context, target), strict=True))
    for name in pair:
        gap = artifacts.check_same({name: pair[name]}, {name: other[name]}, atol=1e-4)
        print(f"transformers, {changes}, {name}: {gap:.2e}, std {pair[name].std():.2f}")


def test_transformers_runs_the_lines_of_the_card(transformers, tmp_path, monkeypatch):
    encoder, predictor, params = random_model()
    write(tmp_path, params, encoder, predictor)
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(usage_hf(frames=8, crop_size=48), names)
    ours = Model(encoder, predictor, params).encode(
        np.zeros((1, 8, 48, 48, 3), np.float32)
    )
    artifacts.check_same(np.asarray(ours), names["features"].numpy(), atol=1e-4)
