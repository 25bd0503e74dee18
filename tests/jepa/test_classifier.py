"""Published classifiers: transformers' recorded logits, and the same weights as Meta's."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch_zip
from safetensors.numpy import load_file, save_file
from tiny_vjepa2 import FIXTURE

from core.evals.heads import AttentivePooler
from jepa.weights import classifier

HEAD = load_file(FIXTURE / "probe_head.safetensors")


@pytest.fixture(scope="module")
def io():
    with np.load(FIXTURE / "io.npz") as file:
        return dict(file)


def folder(tmp_path, **changes):
    """A classification folder: the encoder of the fixture and its head."""
    tensors = load_file(FIXTURE / "model.safetensors")
    tensors = {f"vjepa2.{name}": x for name, x in tensors.items()} | HEAD | changes
    kept = {name: x for name, x in tensors.items() if x is not None}
    save_file(kept, tmp_path / "model.safetensors")
    config = json.loads((FIXTURE / "config.json").read_text())
    config["architectures"] = ["VJEPA2ForVideoClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def as_meta(tensors: dict) -> dict:
    """The head under Meta's names: layers joined to qkv and kv."""
    found = {"pooler.query_tokens": tensors["pooler.query_tokens"]}
    for kind in ("weight", "bias"):
        found[f"linear.{kind}"] = tensors[f"classifier.{kind}"]
        ours, theirs = "pooler.self_attention_layers.0.", "pooler.blocks.0."
        qkv = [tensors[f"{ours}self_attn.{n}_proj.{kind}"] for n in "qkv"]
        found[f"{theirs}attn.qkv.{kind}"] = np.concatenate(qkv)
        found[f"{theirs}attn.proj.{kind}"] = tensors[f"{ours}self_attn.out_proj.{kind}"]
        cross, xattn = "pooler.cross_attention_layer.", "pooler.cross_attention_block."
        kv = [tensors[f"{cross}cross_attn.{n}_proj.{kind}"] for n in "kv"]
        found[f"{xattn}xattn.kv.{kind}"] = np.concatenate(kv)
        found[f"{xattn}xattn.q.{kind}"] = tensors[f"{cross}cross_attn.q_proj.{kind}"]
        for a, b in ((ours, theirs), (cross, xattn)):
            for i in (1, 2):
                found[f"{b}norm{i}.{kind}"] = tensors[f"{a}layer_norm{i}.{kind}"]
                found[f"{b}mlp.fc{i}.{kind}"] = tensors[f"{a}mlp.fc{i}.{kind}"]
    return found


def test_logits_are_those_of_transformers(tmp_path, io):
    head, params = classifier.read_classifier(folder(tmp_path))
    assert (head.outputs, head.depth, head.heads, head.eps) == (5, 2, 4, 1e-6)
    with jax.default_matmul_precision("highest"):
        tokens = io["last_hidden_state"]
        logits = head.apply({"params": params}, tokens)
        pooler = AttentivePooler(head.depth, head.heads, head.eps)
        pooled = pooler.apply({"params": params["pooler"]}, tokens)
    np.testing.assert_allclose(logits, io["probe_logits"], atol=2e-5)
    np.testing.assert_allclose(pooled, io["probe_pooled"], atol=2e-5)


def test_probe_files_of_meta_hold_the_same_weights(tmp_path):
    _, wanted = classifier.read_classifier(folder(tmp_path))
    entries = {f"module.{name}": x for name, x in as_meta(HEAD).items()}
    torch_zip.save(tmp_path / "probe.pt", {"classifiers": [entries], "epoch": 20})
    head, params = classifier.read_classifier(tmp_path / "probe.pt")
    assert (head.outputs, head.depth, head.heads, head.eps) == (5, 2, 16, 1e-5)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classifier.bias": None}, "classifier.bias is missing"),
        (
            {"pooler.more": np.ones(3, np.float32)},
            "pooler.more is not part of the model",
        ),
        (
            {"pooler.cross_attention_layer.mlp.fc1.bias": np.ones(3, np.float32)},
            "mlp/up/bias has shape (3,), expected (256,)",
        ),
    ],
)
def test_faults_are_named(changes, words, tmp_path):
    with pytest.raises(ValueError) as caught:
        classifier.read_classifier(folder(tmp_path, **changes))
    assert words in str(caught.value)


def test_classes_are_named_by_the_config(tmp_path, io):
    place = folder(tmp_path)
    config = json.loads((place / "config.json").read_text())

    def found(names):
        labels = {"id2label": {str(i): name for i, name in enumerate(names)}}
        (place / "config.json").write_text(json.dumps(config | labels))
        return classifier.published_classifier(place)

    one = found("vwxyz")
    assert (one.classes, one.outputs) == (tuple("vwxyz"), 5)
    with jax.default_matmul_precision("highest"):
        logits = one.apply(one.params, io["last_hidden_state"])
    np.testing.assert_allclose(logits, io["probe_logits"], atol=2e-5)
    assert found([f"LABEL_{i}" for i in range(5)]).classes == ()
    with pytest.raises(
        ValueError, match="id2label names 2 classes, the classifier has 5"
    ):
        found("vw")
    assert classifier.published_classifier(FIXTURE) is None


def test_other_files_are_refused(tmp_path):
    torch_zip.save(tmp_path / "probe.pt", {"classifiers": []})
    with pytest.raises(ValueError, match="holds no list `classifiers`"):
        classifier.read_classifier(tmp_path / "probe.pt")
    shutil.copytree(FIXTURE, tmp_path / "base")
    with pytest.raises(ValueError, match="is missing"):
        classifier.read_classifier(tmp_path / "base")
