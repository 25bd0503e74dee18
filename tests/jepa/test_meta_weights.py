"""Meta's .pt files: written here by their documented names, read part by part."""

import functools
import os

import jax
import numpy as np
import pytest
import torch_zip
from meta_files import ENCODER, PREDICT, optimizer, prefixed, write
from tiny_vjepa2 import FIXTURE

from jepa.nets.model import Encoder, Predictor
from jepa.weights import hf_weights, readers

FIELDS, PREDICTOR, PARAMS = hf_weights.read_hf(FIXTURE)


def modules(**changes):
    encoder = {k: v for k, v in changes.items() if k in FIELDS and k != "depth"}
    return {
        "encoder": Encoder(**(FIELDS | encoder)),
        "predictor": Predictor(**(PREDICTOR | changes.get("predictor", {}))),
    }


def read(path, parts=(), **changes):
    return readers.read_meta(path, parts, modules=modules(**changes))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_all_parts_of_a_file(tmp_path):
    found = read(write(tmp_path))
    assert {part: w.entry for part, w in found.items()} == {
        "encoder": "encoder", "target": "target_encoder", "predictor": "predictor",
        "opt": "opt",
    }  # fmt: skip
    same(found["target"].arrays, PARAMS["encoder"])
    same(found["encoder"].arrays, jax.tree.map(lambda x: 2 * x, PARAMS["encoder"]))
    same(found["predictor"].arrays, PARAMS["predictor"])
    opt, params = found["opt"].arrays, {k: PARAMS[k] for k in ("encoder", "predictor")}
    assert opt.count == 7 and opt.count.dtype == np.int32
    for moment, factor in ((opt.mu, 0.25), (opt.nu, 0.5)):
        wanted = jax.tree.map(lambda x, f=factor: f * x, params)
        unused = wanted["predictor"]["mask_tokens"]
        unused[1:] = 0
        same(moment, wanted)


def test_one_encoder_is_the_target(tmp_path):
    path = write(tmp_path)
    assert read(path, ("encoder",))["encoder"].entry == "target_encoder"
    assert read(path, ("encoder", "target"))["encoder"].entry == "encoder"
    path = write(
        tmp_path, target_encoder=None, ema_encoder=prefixed(ENCODER, "module.")
    )
    found = read(path, ("encoder",))
    assert found.keys() == {"encoder"} and found["encoder"].entry == "ema_encoder"
    same(found["encoder"].arrays, PARAMS["encoder"])


def test_first_generation_has_tables_of_positions(tmp_path):
    table = {"pos_embed": np.zeros((1, 32, FIELDS["width"]), np.float32)}
    predictor = {n: x for n, x in PREDICT.items() if n != "mask_tokens.2"}
    predictor = {"predictor_pos_embed": np.zeros((1, 32, 8), np.float32)} | predictor
    encoder = table | ENCODER
    path = write(
        tmp_path, encoder=prefixed(encoder), target_encoder=prefixed(encoder),
        predictor=prefixed(predictor),
        opt=optimizer([{k: x for k, x in p.items()} for p in (encoder, predictor)], (0, 1)),
    )  # fmt: skip
    found = read(path, positions="sincos", predictor={"mask_tokens": 2})
    same(found["encoder"].arrays, PARAMS["encoder"])
    np.testing.assert_array_equal(
        found["predictor"].arrays["mask_tokens"], PARAMS["predictor"]["mask_tokens"][:2]
    )
    mask_tokens = found["opt"].arrays.mu["predictor"]["mask_tokens"]
    np.testing.assert_array_equal(
        mask_tokens, 0.25 * PARAMS["predictor"]["mask_tokens"][:2]
    )


def refusal(tmp_path, parts=(), changes=None, **content):
    with pytest.raises(ValueError) as caught:
        read(write(tmp_path, **content), parts, **(changes or {}))
    (line,) = str(caught.value).splitlines()
    assert "vit.pt" in line
    return line


def without(entries, *names):
    return {k: x for k, x in entries.items() if not k.startswith(names)}


def test_networks_of_other_methods_are_named(tmp_path):
    levels = ENCODER | {"norms_block.0.weight": np.ones(4, np.float32)}
    text = refusal(tmp_path, target_encoder=levels, encoder=levels)
    assert "norms_block.0.weight belongs to V-JEPA 2.1" in text
    conditioned = PREDICT | {"action_encoder.weight": np.ones((4, 7), np.float32)}
    text = refusal(tmp_path, predictor=conditioned)
    assert "action_encoder.weight belongs to V-JEPA 2-AC" in text
    assert "--config.init_parts=encoder" in text
    found = read(write(tmp_path, predictor=conditioned), ("encoder",))
    same(found["encoder"].arrays, PARAMS["encoder"])
    # Evaluations ask for all parts; they go on without a predictor of another method.
    path = write(tmp_path, predictor=conditioned)
    found = read(path, ("encoder", "target", "predictor"))
    assert found.keys() == {"encoder", "target"}


def changed(name, x):
    return {"target_encoder": prefixed(ENCODER | {name: x})}


NORM = np.ones(FIELDS["width"], np.float32)
FAULTS = {
    "one layer less": (
        {"target_encoder": without(ENCODER, "blocks.1.")},
        "encoder.depth is 1 there, expected 2",
    ),
    "a tensor less": (
        {"target_encoder": without(ENCODER, "norm.bias")},
        "target_encoder: norm.bias is missing",
    ),
    "a tensor more": (changed("cls_token", NORM), "cls_token is not part of the model"),
    "another shape": (
        changed("norm.weight", NORM[:3]),
        "norm.weight has shape [3], not",
    ),
    "no tensor": (changed("norm.weight", 3), "norm.weight is int, no tensor"),
    "another optimizer": (
        {"opt": optimizer([ENCODER])},
        "opt numbers 28 parameters, encoder and predictor have 61",
    ),
    "no encoder": (
        {"target_encoder": None, "encoder": None},
        "expected an encoder or target_encoder",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault, tmp_path):
    content, words = FAULTS[fault]
    parts = () if fault in ("another optimizer", "no encoder") else ("encoder",)
    assert words in refusal(tmp_path, parts, **content)


def test_config_of_another_network_is_named(tmp_path):
    changes = {"predictor": {"mask_tokens": 1}}
    text = refusal(tmp_path, ("predictor",), changes)
    assert "predictor.mask_tokens is 3 there, expected 1" in text
    assert "--config.predictor.mask_tokens=3" in text


def test_an_object_of_another_class_is_not_loaded(tmp_path):
    mark = tmp_path / "ran"
    call = torch_zip.Call(os.system.__module__, "system", (f"touch {mark}",))
    text = refusal(tmp_path, ("encoder",), loss=call)
    assert f"needs {os.system.__module__}.system" in text and not mark.exists()


def test_other_paths_are_left_to_other_readers(tmp_path):
    only = functools.partial(readers.read_meta, parts=(), modules=modules())
    assert only(FIXTURE) is None and only(tmp_path / "missing.pt") is None
