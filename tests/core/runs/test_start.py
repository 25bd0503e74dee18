"""How a state begins: resumed, from a checkpoint, an export, a Hugging Face folder, afresh."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import meta_files
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small import dream, small, use_one_device
from tiny_vjepa2 import FIXTURE, Model, clip_of

from core import train
from core.config import load_method
from core.export import artifacts
from core.export.export_run import export_run
from core.method import open_source
from core.nn.token_order import take
from core.parallel.layouts import unbox
from core.parallel.mesh import make_mesh
from core.program import build_program
from core.runs import checkpoint
from core.runs.run_folder import differences
from core.runs.start import begin
from jepa.nets import model
from jepa.weights import hf_weights

FIELDS, _, PARAMS = hf_weights.read_hf(FIXTURE)


@pytest.fixture(autouse=True)
def fixture_size(monkeypatch):
    """The config of the Hugging Face fixture can be written: its encoder has a size."""
    size = tuple(FIELDS[name] for name in ("width", "depth", "heads", "hidden"))
    monkeypatch.setitem(model.SIZES, "fixture", size)


def matching(**fields):
    """A small run whose networks are those of the Hugging Face fixture."""
    predictor = {"depth": 2, "heads": 4, "hidden": 192, "mask_tokens": 3}
    predictor = {f"predictor__{name}": value for name, value in predictor.items()}
    return small(**{"steps": 2, "encoder__size": "fixture", **predictor, **fields})


def started(config, folder, **mesh):
    """(Start of a run that has no checkpoint yet, its program)."""
    method = load_method(config)
    devices = None if mesh else jax.devices()[:1]
    mesh = make_mesh(devices=devices, **(mesh or config.mesh))
    plan = build_program(method, mesh, seed=config.seed, offload=config.offload)
    choice = {"init_from": config.init_from, "init_parts": config.init_parts}
    with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
        return begin(method, plan, checkpoints, None, **choice), plan


def refusal(tmp_path, **fields):
    with pytest.raises(ValueError) as caught:
        started(matching(**fields), tmp_path / "new")
    (line,) = str(caught.value).splitlines()
    return line


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((a, b)))


def differ(a, b):
    pairs = zip(*map(jax.tree.leaves, jax.device_get((a, b))), strict=True)
    return any((x != y).any() for x, y in pairs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of a run that started from the Hugging Face fixture, its last state)."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        size = tuple(FIELDS[name] for name in ("width", "depth", "heads", "hidden"))
        patch.setitem(model.SIZES, "fixture", size)
        config = matching(init_from=str(FIXTURE))
        return folder, jax.device_get(train.fit(config, folder))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        size = tuple(FIELDS[name] for name in ("width", "depth", "heads", "hidden"))
        patch.setitem(model.SIZES, "fixture", size)
        export_run(trained[0], out, ["safetensors", "stablehlo"])
    return out


@pytest.mark.parametrize("mesh", [{}, {"data": 2, "fsdp": 4}])
def test_hugging_face_folder_fills_encoder_target_and_predictor(tmp_path, mesh):
    (state, step, report), plan = started(
        matching(init_from=str(FIXTURE)), tmp_path, **mesh
    )
    with np.load(FIXTURE / "io.npz") as io, jax.default_matmul_precision("highest"):
        for encoder in jax.device_get((state.params["encoder"], state.target)):
            read = Model(FIELDS, hf_weights.read_hf(FIXTURE)[1], {"encoder": encoder})
            features = read.encode(clip_of(io["video"]))
            np.testing.assert_allclose(features, io["last_hidden_state"], atol=1e-4)
    same(state.params, PARAMS)
    assert step == int(state.step) == int(state.bad_steps) == 0
    assert not differ(state.opt, jax.tree.map(np.zeros_like, state.opt))
    jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(s), state, plan.layouts)
    origin = f"from Hugging Face folder {FIXTURE}"
    assert report == [
        f"params/encoder: 20 arrays, 0.198M values, {origin}",
        f"params/predictor: 23 arrays, 0.0630M values, {origin}",
        "step: 0",
        f"target: 20 arrays, 0.198M values, {origin}, the same as params/encoder",
        "opt: 87 arrays, 0.523M values, fresh",
        "bad_steps: 0",
    ]


def test_the_first_loss_is_that_of_the_published_weights(trained):
    """By the equation of arXiv 2506.09985, pattern after pattern, from the file itself."""
    config = matching()
    method = load_method(config)
    with open_source(method) as source:
        batch = source.next()
    halves = {name: np.split(x, 2, 1) for name, x in batch.items() if name != "video"}
    clips = (batch["video"] / np.float32(255) - model.MEAN) / model.STD

    @jax.jit
    def loss(params):
        encoder, predictor = (
            make(**fields)
            for make, fields in zip(
                (model.Encoder, model.Predictor),
                hf_weights.read_hf(FIXTURE),
                strict=False,
            )
        )
        grid = model.grid_of(clips.shape, encoder.patch)
        encode = functools.partial(
            encoder.apply, {"params": params["encoder"]}, grid=grid
        )
        patches = model.patchify(clips, encoder.patch)
        truth, terms = encode(patches), []
        mean, variance = truth.mean(-1, keepdims=True), truth.var(-1, keepdims=True)
        truth = (truth - mean) / jnp.sqrt(variance + 1e-5)
        for i in range(2):
            seen, hidden, valid, there = (
                halves[name][i]
                for name in ("context", "target", "context_valid", "target_valid")
            )
            guess = predictor.apply(
                {"params": params["predictor"]},
                encode(take(patches, seen), seen, valid=valid), seen, hidden, grid=grid,
                use=(0,), context_valid=valid, target_valid=there,
            )  # fmt: skip
            error = jnp.abs(guess - take(truth, hidden)).mean(-1)
            terms.append((error * there).sum() / there.sum())
        return jnp.stack(terms).mean()

    lines = (trained[0] / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["step"] == 1
    assert first["loss"] == pytest.approx(float(loss(PARAMS)), rel=1e-5)
    fresh = unbox(method.init(jax.random.key(config.seed))).params
    assert abs(first["loss"] - float(loss(fresh))) > 0.01


def test_meta_file_fills_all_parts_or_those_named(tmp_path):
    path = meta_files.write(tmp_path)
    (state, step, report), _ = started(matching(init_from=str(path)), tmp_path)
    same(state.target, PARAMS["encoder"])
    same(state.params["encoder"], jax.tree.map(lambda x: 2 * x, PARAMS["encoder"]))
    same(state.params["predictor"], PARAMS["predictor"])
    quarter = jax.tree.map(lambda x: x / 4, PARAMS["encoder"])
    same(state.opt.mu["encoder"], quarter)
    assert step == int(state.step) == 0 and int(state.opt.count) == 7
    assert report == [
        f"params/encoder: 20 arrays, 0.198M values, from encoder of Meta file {path}",
        f"params/predictor: 23 arrays, 0.0630M values, from predictor of Meta file {path}",
        "step: 0",
        f"target: 20 arrays, 0.198M values, from target_encoder of Meta file {path}",
        f"opt: 87 arrays, 0.523M values, from opt of Meta file {path}",
        "bad_steps: 0",
    ]
    config = matching(init_from=str(path), init_parts="encoder, predictor, target")
    state = started(config, tmp_path)[0].state
    assert int(state.opt.count) == 0 and differ(state.target, state.params["encoder"])
    state = started(matching(init_from=str(path), init_parts="params"), tmp_path)[
        0
    ].state
    same((state.target, state.params["encoder"]), (PARAMS["encoder"],) * 2)


def test_state_of_weights_may_wait_in_the_memory_of_the_host(tmp_path):
    config = matching(init_from=str(FIXTURE), offload="target")
    (state, *_), _ = started(config, tmp_path)
    same(state.target, PARAMS["encoder"])
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.target)}
    assert kinds == {"pinned_host"}


def test_a_run_from_weights_trains_and_resumes(trained, monkeypatch, capfd, tmp_path):
    use_one_device(monkeypatch)
    folder, last = tmp_path / "run", trained[1]
    shutil.copytree(trained[0], folder)
    report = (folder / "start.txt").read_text()
    assert f"from Hugging Face folder {FIXTURE}" in report
    assert json.loads((folder / "provenance.json").read_text())["parent"] == str(
        FIXTURE
    )
    # Encoder and target left the weights of the folder, each its own way.
    assert differ(last.params["encoder"], PARAMS["encoder"])
    assert differ(last.target, PARAMS["encoder"])
    assert differ(last.target, last.params["encoder"])
    same(hf_weights.read_hf(FIXTURE)[2], PARAMS)  # no step wrote into what was read
    config = matching(steps=3, init_from=str(FIXTURE))
    state = train.fit(config, folder, allow_config_change=True)
    assert int(state.step) == 3 and int(state.opt.count) == 3
    assert "all arrays: resumed from step 2 of this run" in capfd.readouterr().out
    assert (folder / "start.txt").read_text() == report


def test_named_parts_of_a_folder(tmp_path):
    fresh = started(matching(), tmp_path)[0]
    assert fresh.report == ["all arrays: fresh"]
    found = started(matching(init_from=str(FIXTURE), init_parts="encoder"), tmp_path)[0]
    same((found.state.params["encoder"], found.state.target), (PARAMS["encoder"],) * 2)
    same(found.state.params["predictor"], fresh.state.params["predictor"])
    assert found.report[1].endswith("fresh")
    # What is not taken may have other sizes.
    config = matching(init_from=str(FIXTURE), init_parts="encoder", predictor__depth=1)
    same(started(config, tmp_path)[0].state.target, PARAMS["encoder"])
    found = started(matching(init_from=str(FIXTURE), init_parts="predictor"), tmp_path)[
        0
    ]
    same(found.state.params["predictor"], PARAMS["predictor"])
    same(found.state.target, fresh.state.target)


@pytest.mark.parametrize("parts", ["encoder", "predictor, encoder", "params"])
def test_named_parts_of_a_checkpoint(trained, tmp_path, parts):
    folder, last = trained
    whole = parts != "encoder"
    fields = {} if whole else {"predictor__depth": 1}
    config = matching(init_from=str(folder), init_parts=parts, **fields)
    (state, step, report), plan = started(config, tmp_path)
    same((state.params["encoder"], state.target), (last.params["encoder"], last.target))
    fresh = jax.device_get(plan.create())
    predictor = (last if whole else fresh).params["predictor"]
    same(state.params["predictor"], predictor)
    same((state.opt, state.step, state.bad_steps), (fresh.opt, 0, 0))
    origin = f"from checkpoint {folder}/checkpoints/"
    marks = [line.split(" values, ")[-1].startswith(origin) for line in report]
    assert step == 0 and marks == [True, whole, False, True, False, False]


@pytest.mark.parametrize("kind", ["safetensors", "stablehlo"])
def test_export_fills_the_encoder(trained, exported, tmp_path, kind):
    config = matching(init_from=str(exported / kind), predictor__depth=1)
    (state, _, report), plan = started(config, tmp_path)
    same((state.params["encoder"], state.target), (trained[1].target,) * 2)
    same(state.params["predictor"], plan.create().params["predictor"])
    assert report[0].endswith(f"from export folder {exported / kind}")
    assert report[1].endswith("values, fresh")


def test_what_an_export_lacks_is_named(exported, tmp_path):
    words = refusal(
        tmp_path, init_from=str(exported / "safetensors"), init_parts="params"
    )
    assert "safetensors: holds encoder, but init_parts names 'predictor'" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm/scale": None}, "params/encoder/norm/scale is missing"),
        ({"more": np.ones(2)}, "params/encoder/more is not an array of this config's"),
        (
            {"norm/scale": np.ones(3, np.float32)},
            "params/encoder/norm/scale is float32 (3,), expected float32 (64,)",
        ),
        (
            {"norm/scale": np.ones(64, np.int32)},
            "is int32 (64,), expected float32 (64,)",
        ),
        (
            {"norm/scale": np.full(64, np.nan, np.float32)},
            "params/encoder/norm/scale has values that are not finite",
        ),
    ],
)
def test_wrong_arrays_of_an_export_are_named(change, words, exported, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(exported / "safetensors", folder)
    arrays = load_file(folder / "params.safetensors") | change
    arrays = {name: x for name, x in arrays.items() if x is not None}
    save_file(arrays, folder / "params.safetensors")
    origin = json.loads((folder / "provenance.json").read_text())
    artifacts.finish(folder, card="", origin=origin)
    text = refusal(tmp_path, init_from=str(folder))
    assert text.startswith(f"init_from: export folder {folder}: ") and words in text


def test_damaged_export_is_named(exported, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(exported / "safetensors", folder)
    path = folder / "params.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    words = f"export {folder} is damaged (params.safetensors is not what was written"
    assert words in refusal(tmp_path, init_from=str(folder))
    artifacts.finish(folder, card="", origin={})
    text = refusal(tmp_path, init_from=str(folder))
    assert f"{path} is no valid safetensors file" in text


OTHER = [
    ({"encoder__size": "tiny"}, "encoder.width is 64 there, expected 128"),
    ({"encoder__size": "tiny"}, "encoder.depth is 2 there, expected 4"),
    ({"encoder__size": "tiny"}, "use --config.encoder.size=fixture"),
    ({"encoder__positions": "paired"}, "encoder.positions is tiled there, expected pa"),
    ({"encoder__positions": "paired"}, "use --config.encoder.positions=tiled"),
    (
        {"encoder__patch": (1, 16, 16)},
        "encoder.patch is (2, 16, 16) there, expected (1",
    ),
    ({"encoder": {"eps": 1e-5}}, "encoder.eps is 1e-06 there, expected 1e-05"),
    (
        {"encoder": {"qkv_bias": False}},
        "encoder.qkv_bias is True there, expected False",
    ),
    ({"predictor__mask_tokens": 1}, "predictor.mask_tokens is 3 there, expected 1"),
    (
        {"predictor__mask_tokens": 1},
        "use --config.predictor.mask_tokens=3 or --config.in",
    ),
    ({"predictor__heads": 3}, "predictor.heads is 4 there, expected 3"),
]


@pytest.mark.parametrize(("fields", "words"), OTHER)
def test_other_networks_than_the_folder_s_are_refused(fields, words, tmp_path):
    config = matching(init_from=str(FIXTURE))
    sections = {k: v for k, v in fields.items() if isinstance(v, dict)}
    with config.unlocked():
        config.update(sections)
    for name in fields.keys() - sections.keys():
        config.update_from_flattened_dict({name.replace("__", "."): fields[name]})
    with pytest.raises(ValueError) as caught:
        started(config, tmp_path)
    assert f"init_from {FIXTURE}: " in str(caught.value) and words in str(caught.value)


def test_frames_and_resolution_may_differ(tmp_path):
    fields = {"data__frames": 8, "data__size": 48, "masks__truncation": "cells"}
    config = matching(init_from=str(FIXTURE), **fields)
    same(started(config, tmp_path)[0].state.params, PARAMS)


def test_what_cannot_be_read_is_refused(trained, tmp_path):
    folder = str(trained[0])
    text = refusal(tmp_path, init_from="facebook/vjepa2-vitl-fpc64-256")
    assert "facebook/vjepa2-vitl-fpc64-256 holds no checkpoint; name a run's" in text
    assert (
        "or one of these: export folder, Hugging Face folder, Meta file; nothing"
        in text
    )
    text = refusal(tmp_path, init_from=str(tmp_path), init_parts="params")
    assert text.startswith(f"init_from: {tmp_path} holds no checkpoint")
    text = refusal(tmp_path, init_parts="encoder")
    assert "init_parts is 'encoder', but init_from is empty" in text
    text = refusal(tmp_path, init_from=folder, init_parts="encodr")
    assert "no init_parts entry 'encodr' (did you mean 'encoder'?)" in text
    text = refusal(
        tmp_path, init_from=folder, init_parts="predictor", predictor__depth=1
    )
    assert "is of another network: params/predictor/stack/blocks/" in text
    place = tmp_path / "vit"
    shutil.copytree(FIXTURE, place)
    (place / "config.json").write_text(json.dumps({"model_type": "vit"}))
    text = refusal(tmp_path, init_from=str(place))
    assert "model_type is 'vit'; only 'vjepa2' is read" in text


def test_a_folder_published_for_its_encoder_alone(tmp_path):
    place = tmp_path / "encoder"
    shutil.copytree(FIXTURE, place)
    tensors = load_file(FIXTURE / "model.safetensors")
    tensors = {k: x for k, x in tensors.items() if not k.startswith("predictor.layer.")}
    save_file(tensors, place / "model.safetensors")
    config = json.loads((FIXTURE / "config.json").read_text())
    (place / "config.json").write_text(
        json.dumps(config | {"pred_num_hidden_layers": 0})
    )
    (state, _, report), plan = started(matching(init_from=str(place)), tmp_path)
    same((state.params["encoder"], state.target), (PARAMS["encoder"],) * 2)
    same(state.params["predictor"], plan.create().params["predictor"])
    assert report[1].endswith("values, fresh")


def test_a_field_that_is_new_and_empty_is_no_difference():
    now = {"a": 1, "init_parts": "", "more": {"b": ""}}
    assert differences({"a": 1}, now) == []
    now = {"a": 1, "init_parts": "encoder"}
    assert differences({"a": 1}, now) == ["init_parts was absent, is encoder"]
    now = {"data": {"frame_tolerance": 0.5}}
    assert differences({"data": {}}, now) == []
    now["data"]["frame_tolerance"] = 1.0
    assert differences({"data": {}}, now) == ["data.frame_tolerance was 0.5, is 1.0"]
    # Evaluations that older runs lack, and their sizes.
    now = {"eval_steps": {"surprise": -1}, "physical": {"pairs": 10}}
    assert differences({}, now) == []
    now["eval_steps"]["surprise"] = 0
    assert differences({}, now) == ["eval_steps.surprise was -1, is 0"]


@pytest.mark.parametrize("config", [small(), dream()], ids=["jepa", "dreamer"])
def test_a_run_from_before_the_limit_of_waits_opens_and_may_get_another(config):
    now = config.to_dict()
    now["data"]["stall_s"] = 9.0
    with config.unlocked():
        del config.data.stall_s
    before = json.loads(json.dumps(config.to_dict()))
    assert differences(before, now) == []
    load_method(config)
