"""Published weights in place of a run: evaluated and exported with a config beside them."""

import json

import jax
import jax.numpy as jnp
import meta_files
import numpy as np
import pytest
from safetensors.numpy import load_file
from small import dream, small, use_one_device
from tiny_vjepa2 import FIXTURE, Model

from core.config import load_method
from core.evals.evaluate import evaluate, open_state
from core.export.artifacts import check_same
from core.export.export_run import export
from core.nn.token_order import take
from core.runs.restore import open_weights
from jepa.nets import model
from jepa.weights import hf_weights
from jepa.weights.exports import even_and_odd, run_hf
from launch.config import load

FIELDS, _, PARAMS = hf_weights.read_hf(FIXTURE)


@pytest.fixture(autouse=True)
def fixture_size(monkeypatch):
    """The config of the Hugging Face fixture can be written: its encoder has a size."""
    use_one_device(monkeypatch)
    size = tuple(FIELDS[name] for name in ("width", "depth", "heads", "hidden"))
    monkeypatch.setitem(model.SIZES, "fixture", size)


def matching(**fields):
    predictor = {"depth": 2, "heads": 4, "hidden": 192, "mask_tokens": 3}
    predictor = {f"predictor__{name}": value for name, value in predictor.items()}
    return small(**{"encoder__size": "fixture", **predictor, **fields})


def test_meta_file_becomes_a_hugging_face_folder(tmp_path, capfd):
    """Meta's names in, transformers' names out: the tensors of the fixture."""
    path = meta_files.write(tmp_path, predictor=meta_files.PREDICT, opt=None)
    export(open_weights(matching(), path, tmp_path), tmp_path / "out", ["hf"])
    found, wanted = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "out/hf", FIXTURE)
    )
    used = wanted["predictor.embeddings.mask_tokens"]
    wanted["predictor.embeddings.mask_tokens"] = np.repeat(used[:1], 3, 0)
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    said = capfd.readouterr().out
    assert f"target: from target_encoder of Meta file {path}" in said
    assert f"read back, agrees with {path}" in said
    origin = json.loads((tmp_path / "out/hf/provenance.json").read_text())
    assert origin["parent"] == str(path)


def test_transformers_computes_the_recorded_outputs_from_an_export(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    clip = {
        "data__frames": 8,
        "data__size": 48,
    }  # transformers' positions are of a size
    opened = open_weights(matching(**clip), FIXTURE, tmp_path)
    export(opened, tmp_path / "out", ["hf"])
    with np.load(FIXTURE / "io.npz") as io:
        pixels, features = io["video"][:1], io["last_hidden_state"][:1]
    found = run_hf(tmp_path / "out/hf", np.moveaxis(pixels, 2, -1), features.shape[1])
    assert features.std() > 0.5
    check_same(found["features"], features, atol=1e-5)
    ours = Model(*hf_weights.read_hf(tmp_path / "out/hf"))
    seen, hidden = (
        np.tile(x, (len(pixels), 1)) for x in even_and_odd(len(features[0]))
    )
    grid = model.grid_of(np.moveaxis(pixels, 2, -1).shape, ours.encoder.patch)
    guess = ours.predict(take(jnp.asarray(features), seen), seen, hidden, grid)
    check_same(found["guess"], np.asarray(guess), atol=1e-5)


def test_an_encoder_alone_is_exported_and_what_it_lacks_is_named(tmp_path):
    config = matching()
    export(open_weights(config, FIXTURE, tmp_path), tmp_path / "a", ["safetensors"])
    alone = open_weights(config, tmp_path / "a/safetensors", tmp_path / "b")
    with open_state(alone) as state:
        jax.tree.map(np.testing.assert_array_equal, state.target, PARAMS["encoder"])
        assert state.params["predictor"] is None and state.opt is None
    with pytest.raises(
        ValueError, match="health needs a predictor, which these weights"
    ):
        evaluate(alone, ["health"])
    with pytest.raises(ValueError, match="these weights hold no predictor; stablehlo"):
        export(alone, tmp_path / "b", ["hf"])
    assert not (tmp_path / "b" / "hf").exists()


def test_weights_are_evaluated(tmp_path):
    found = evaluate(open_weights(matching(), FIXTURE, tmp_path / "out"), ["health"])
    written = json.loads((tmp_path / "out/evaluations/0.json").read_text())
    assert written["health"]["loss_masked"] == found["health"]["loss_masked"] > 0
    with pytest.raises(ValueError, match="init_from: .*missing.* holds no checkpoint"):
        evaluate(open_weights(matching(), tmp_path / "missing", tmp_path), ["health"])


@pytest.mark.parametrize(
    "place",
    ["lewm", "pldm", "dino_wm", "ac", "jepa", "jepa:tiny_dense", "jepa:tiny_image"],
)
def test_weights_have_all_that_evaluations_read(place):
    file, _, preset = place.partition(":")
    method = load_method(load(f"configs/{file}.py{preset and ':'}{preset}"))
    held = {where.partition("/")[0] for x in method.parts.values() for where in x}
    assert set(method.frozen_fields) <= held | {"step"}


def test_a_method_without_parts_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="--weights is .*, but this method has no parts"
    ):
        evaluate(open_weights(dream(), tmp_path, tmp_path), ["dream"])
