"""Hugging Face folders: round trips and refusals."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_vjepa2 import FIXTURE, Model, clip_of, init, random_model, write

from core.export import artifacts
from jepa.nets.model import SIZES, Encoder, Predictor, encoder_size
from jepa.weights import hf_config, hf_weights

ORIGINAL = FIXTURE.parents[3] / "shared" / "fixtures" / "vjepa2_tiny_hf"
FILES = ("config.json", "model.safetensors", "video_preprocessor_config.json", "io.npz")


@pytest.fixture(scope="module")
def io():
    with np.load(FIXTURE / "io.npz") as file:
        return dict(file)


def test_fixture_is_the_shared_one():
    if not ORIGINAL.is_dir():
        pytest.skip(f"{ORIGINAL} is not on this machine")
    for name in FILES:
        assert (FIXTURE / name).read_bytes() == (ORIGINAL / name).read_bytes(), name


def test_import_then_export_gives_the_same_files(tmp_path):
    encoder, predictor, params = hf_weights.read_hf(FIXTURE)
    write(tmp_path, params, encoder, predictor)
    for name in FILES[1:3]:
        assert (tmp_path / name).read_bytes() == (FIXTURE / name).read_bytes(), name
    old, new = (
        json.loads((d / "config.json").read_text()) for d in (FIXTURE, tmp_path)
    )
    free = ("num_pooler_layers", "pred_zero_init_mask_tokens", "transformers_version")
    for key in free:
        old.pop(key), new.pop(key, None)
    assert old == new


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_export_then_import_gives_the_same_model(qkv_bias, tmp_path, io):
    encoder, predictor, params = random_model(qkv_bias=qkv_bias)
    write(tmp_path, params, encoder, predictor)
    again = hf_weights.read_hf(tmp_path)
    assert again[:2] == (encoder, predictor)
    jax.tree.map(np.testing.assert_array_equal, again[2], params)
    loaded, live = Model(*again), Model(encoder, predictor, params)
    video, index = clip_of(io["video"]), jnp.asarray(io["a_context_mask"], jnp.int32)
    one, two = (m.encode(video, index) for m in (loaded, live))
    np.testing.assert_array_equal(one, two)
    one, two = (m.predict(one, index, index, (4, 3, 3)) for m in (loaded, live))
    np.testing.assert_array_equal(one, two)


def test_trained_mask_token_fills_every_slot(tmp_path):
    encoder, predictor, params = random_model()
    write(tmp_path, params, encoder, predictor, mask_token=2)
    tokens = hf_weights.read_hf(tmp_path)[2]["predictor"]["mask_tokens"]
    assert (tokens == params["predictor"]["mask_tokens"][2]).all()
    with pytest.raises(ValueError, match="there are 4 mask tokens"):
        write(tmp_path, params, encoder, predictor, mask_token=4)


def test_table_is_the_model_for_every_size():
    for size in SIZES:
        encoder = encoder_size(size)
        predictor = {"width": 384, "depth": 12, "heads": 12, "hidden": 1536}
        predictor |= {"out": encoder["width"], "mask_tokens": 10}
        modules = Encoder(**encoder), Predictor(**predictor)
        rows = hf_weights.table(*modules)
        assert len(rows) == 16 * (encoder["depth"] + 12) + 11
        params = jax.eval_shape(lambda e=encoder, p=predictor: init(e, p))
        shapes = {k: x.shape for k, x in artifacts.flatten(params).items()}
        assert shapes == hf_weights.our_shapes(rows)
        config = hf_config.make(*modules, crop_size=256, frames=16)
        assert hf_config.read(config)[0]["hidden"] == encoder["hidden"]


def test_ratio_of_the_published_giant():
    assert hf_config.ratio(1408, 6144) == 48 / 11
    for width in range(12, 400):
        for hidden in range(width, 6 * width, 7):
            assert int(width * hf_config.ratio(width, hidden)) == hidden


def changed_folder(folder, *, config=None, tensors=None):
    """A copy of the fixture with config fields and tensors replaced (None removes)."""
    shutil.copytree(FIXTURE, folder, dirs_exist_ok=True)
    fields = json.loads((FIXTURE / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(fields))
    every = load_file(FIXTURE / "model.safetensors") | (tensors or {})
    every = {name: x for name, x in every.items() if x is not None}
    save_file(every, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


LAYER = "encoder.layer.1.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({LAYER: None}, f"{LAYER} is missing"),
        ({"encoder.layer.2.norm1.weight": np.zeros(64, np.float32)}, "encoder.layer.2"),
        (
            {"pooler.query_tokens": np.zeros((1, 1, 64), np.float32)},
            "pooler.query_tokens",
        ),
        (
            {LAYER: np.zeros((64, 256), np.float32)},
            r"fc1.*\[64, 256\], not \[256, 64\]",
        ),
        ({LAYER: np.zeros((256, 64), np.int32)}, "fc1.weight is I32"),
    ],
)
def test_wrong_tensors_are_named(tensors, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        hf_weights.read_hf(changed_folder(tmp_path, tensors=tensors))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "vjepa21"}, "only 'vjepa2' is read"),
        ({"patch_size": [16, 8]}, "transformers itself cannot run a pair"),
        ({"hidden_size": "64"}, "hidden_size is '64', not int"),
        ({"hidden_act": "gelu_new"}, "only 'gelu' is read"),
        ({"in_chans": 4}, "only 3 is read"),
        ({"num_hidden_layers": 3}, "encoder.layer.2.* is missing"),
        ({"mlp_ratio": 2.0}, r"fc1.* has shape \[256, 64\]"),
    ],
)
def test_wrong_configs_are_named(config, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        hf_weights.read_hf(changed_folder(tmp_path, config=config))


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json"):
        hf_weights.read_hf(tmp_path)
    changed_folder(tmp_path)
    whole = (FIXTURE / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="no valid safetensors file"):
        hf_weights.read_hf(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="sharded weights are not read"):
        hf_weights.read_hf(tmp_path)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("encoder", {"positions": "paired"}, "encoder.positions is 'paired'"),
        ("predictor", {"positions": "sincos"}, "predictor.positions is 'sincos'"),
        ("encoder", {"patch": (2, 16, 8)}, "one patch_size"),
        ("encoder", {"eps": 1e-5}, "one value for both"),
        ("predictor", {"qkv_bias": False}, "one value for both"),
        ("predictor", {"out": 43}, "wants them equal"),
        ("encoder", {"depth": 2}, r"norm1/scale has shape \(3, 44\), not \(2, 44\)"),
    ],
)
def test_export_refuses_what_the_format_cannot_say(part, change, words, tmp_path):
    encoder, predictor, params = random_model()
    {"encoder": encoder, "predictor": predictor}[part].update(change)
    with pytest.raises(ValueError, match=words):
        write(tmp_path, params, encoder, predictor)
    assert not list(tmp_path.iterdir())


def test_export_names_wrong_params(tmp_path):
    encoder, predictor, params = random_model()
    extra = {**params, "encoder": {**params["encoder"], "more": np.zeros(2)}}
    with pytest.raises(ValueError, match="encoder/more is not part"):
        write(tmp_path, extra, encoder, predictor)
    with pytest.raises(ValueError, match="predictor/embed/bias is missing"):
        write(tmp_path, {"encoder": params["encoder"]}, encoder, predictor)


def test_classification_model_gives_its_encoder(tmp_path):
    tensors = load_file(FIXTURE / "model.safetensors")
    moved = {name: None for name in tensors}
    moved |= {f"vjepa2.{name}": x for name, x in tensors.items()}
    moved |= {"classifier.bias": np.zeros(5, np.float32), "pooler.x": np.ones(2)}
    config = {"architectures": ["VJEPA2ForVideoClassification"]}
    folder = changed_folder(tmp_path, config=config, tensors=moved)
    jax.tree.map(
        np.testing.assert_array_equal,
        hf_weights.read_hf(folder)[2],
        hf_weights.read_hf(FIXTURE)[2],
    )


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_files_are_read_as_float32(dtype, tmp_path):
    whole = load_file(FIXTURE / "model.safetensors")
    folder = changed_folder(
        tmp_path, tensors={k: x.astype(dtype) for k, x in whole.items()}
    )
    expected = jax.tree.map(
        lambda x: x.astype(dtype).astype(np.float32), hf_weights.read_hf(FIXTURE)[2]
    )
    jax.tree.map(np.testing.assert_array_equal, hf_weights.read_hf(folder)[2], expected)
