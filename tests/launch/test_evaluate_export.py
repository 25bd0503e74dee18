"""A small run is evaluated and exported; artifacts equal the live model."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from small import ROOT, small

from core.base.pictures import encode_png
from core.evals.evaluate import evaluate_run
from core.export import artifacts
from core.export.export_run import export_run
from core.method import Watch
from core.nn.token_order import take
from core.parallel.mesh import make_mesh
from core.runs import restore
from core.train import fit
from jepa import weights
from jepa.encode import make_encode
from jepa.model import Encoder, Predictor, encoder_size, grid_of, standardize

FORMATS = ("hf", "stablehlo", "safetensors")


def config():
    """Small, with positions and mask tokens as in the released V-JEPA 2."""
    return small(
        steps=2,
        save_steps=1,
        mesh__fsdp=-1,
        encoder__positions="tiled",
        predictor__mask_tokens=3,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of a run, its last state on the host)."""
    folder = tmp_path_factory.mktemp("run") / "small"
    return folder, jax.device_get(fit(config(), folder))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    export_run(trained[0], out, FORMATS)
    return out


def clip():
    data, rng = config().data, np.random.default_rng(0)
    shape = (3, data.frames, data.size, data.size, 3)
    return rng.integers(0, 256, shape, np.uint8)


def features(state):
    """Features of `clip` by the live target encoder, built from the config."""
    fields = config().encoder
    place = {"patch": fields.patch, "positions": fields.positions}
    encoder = Encoder(**encoder_size(fields.size), **place)
    return jax.jit(make_encode(encoder))(state.target, {"video": clip()})


def test_a_restored_config_equals_the_original(trained):
    opened = restore.open_run(trained[0])
    assert opened.step == 2 and opened.checkpoint.name == "2"
    back = restore.tuples(opened.config)
    given = config().to_dict()
    assert back == given and type(back["encoder"]["patch"]) is tuple


def test_restored_state_is_the_trained_one(trained):
    folder, state = trained
    mesh = make_mesh(devices=jax.devices()[:1])
    again = restore.open_run(folder).read(mesh)[0]
    assert again.opt is None and again.bad_steps is None  # not read
    rest = state.replace(opt=None, bad_steps=None)
    jax.tree.map(np.testing.assert_array_equal, again, rest)


def test_evaluations_are_written(trained, capsys):
    folder, state = trained
    names = {"health", "pictures", "probe", "baselines"}
    found = evaluate_run(folder, sorted(names))
    assert set(found) == names
    entries = json.loads((folder / "evaluations" / "2.json").read_text())
    assert set(entries) == names | {"step"} and entries["step"] == 2
    said = capsys.readouterr().out
    for name in names:
        assert f"step 2 {name}:" in said
        for key, value in found[name].items():
            if isinstance(value, np.ndarray) and value.ndim:
                saved = pathlib.Path(entries[name][key]).read_bytes()
                assert saved == encode_png(value)
            else:
                assert entries[name][key] == value
    with jax.set_mesh(make_mesh(fsdp=-1)):
        live = restore.open_run(folder).method.evals["health"](state, Watch())
    for key, value in live.items():
        assert found["health"][key] == pytest.approx(value, rel=1e-3), key


def test_one_evaluation_keeps_the_findings_of_others(trained):
    folder, _ = trained
    for step in (1, 2):
        path = folder / "evaluations" / f"{step}.json"
        known = json.loads(path.read_text()) if path.exists() else {"step": step}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(known | {"health": "old", "other": {"x": "nan"}}))
        evaluate_run(folder, ["health"], step=step)
        entries = json.loads(path.read_text())
        assert entries["health"]["loss_masked"] > 0 and entries["step"] == step
        assert entries["other"] == {"x": "nan"}


def test_stablehlo_equals_the_live_encoder(trained, exported):
    outputs, live = (
        artifacts.load(exported / "stablehlo", "model")({"video": clip()}),
        features(trained[1]),
    )
    assert outputs.dtype == np.float32 and live.std() > 0.5
    artifacts.check_same(outputs, live, atol=1e-5)


def test_safetensors_hold_the_target_encoder(trained, exported):
    params = load_file(exported / "safetensors" / artifacts.WEIGHTS)
    artifacts.check_same(artifacts.nest(params), trained[1].target, atol=0)


def test_hugging_face_folder_gives_the_same_networks(trained, exported):
    _, state = trained
    encoder, predictor, params = weights.read_hf(exported / "hf")
    live = features(state)
    again = jax.jit(make_encode(Encoder(**encoder)))(
        params["encoder"], {"video": clip()}
    )
    np.testing.assert_array_equal(again, live)
    N, grid = live.shape[1], grid_of(clip().shape, encoder["patch"])
    context, target = (np.tile(np.arange(i, N, 4), (3, 1)) for i in (0, 1))

    def guess(module, params, use):
        rest = {"grid": grid, "use": (use,)}
        return module.apply(
            {"params": params}, take(live, context), context, target, **rest
        )

    theirs = Predictor(**predictor)
    ours = dataclasses.replace(theirs)
    np.testing.assert_array_equal(
        guess(theirs, params["predictor"], 1), guess(ours, state.params["predictor"], 0)
    )
    tokens = state.params["predictor"]["mask_tokens"]
    assert np.abs(tokens[0]).max() > 0 and (tokens[1:] == 0).all()


def test_transformers_computes_the_same_features(trained, exported):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from jepa.exports import run_hf

    video = np.asarray(standardize(clip()[:1]))
    live = features(trained[1])[:1]
    found = run_hf(exported / "hf", video, live.shape[1])
    artifacts.check_same(found["features"], live, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_artifacts_hold_their_provenance(trained, exported, name):
    folder, _ = trained
    origin = json.loads((exported / name / "provenance.json").read_text())
    assert origin["parent"] == str(folder / "checkpoints" / "2")
    assert origin["run"] == json.loads((folder / "provenance.json").read_text())
    files = {p.name for p in (exported / name).iterdir()} - {"provenance.json"}
    assert set(origin["files"]) == files and "README.md" in files
    card = (exported / name / "README.md").read_text()
    assert '"positions": "tiled"' in card and "checkpoints/2" in card
    assert "target encoder" in card


def with_config(folder, place, **encoder):
    """A copy of a run with changed fields in config.encoder."""
    shutil.copytree(folder, place)
    fields = json.loads((place / "config.json").read_text())
    fields["encoder"] |= encoder
    (place / "config.json").write_text(json.dumps(fields))
    (place / "provenance.json").unlink()  # it has the digest of the config
    return place


@pytest.mark.parametrize("positions", ["paired", "sincos"])
def test_hugging_face_export_refuses_unsupported_positions(
    positions, trained, tmp_path
):
    run = with_config(trained[0], tmp_path / "run", positions=positions)
    with pytest.raises(ValueError, match=f"{positions}.*stablehlo and safetensors"):
        export_run(run, tmp_path / "out", ["hf"])
    assert not list((tmp_path / "out").iterdir())
    export_run(run, tmp_path / "out", ["safetensors"])


def test_an_artifact_that_differs_is_not_written(trained, tmp_path, monkeypatch):
    load = artifacts.load

    def wrong(folder, name):
        return lambda inputs: load(folder, name)(inputs) + 1e-3

    monkeypatch.setattr(artifacts, "load", wrong)
    with pytest.raises(ValueError, match="output differs by 0.001, more than 0.0001"):
        export_run(trained[0], tmp_path / "out", ["stablehlo"])
    assert not list((tmp_path / "out").iterdir())


def test_an_export_is_not_overwritten(trained, exported):
    with pytest.raises(ValueError, match="hf exists already; give another --out"):
        export_run(trained[0], exported, ["hf", "safetensors"])


def test_unknown_names_steps_and_runs_are_errors(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(ValueError, match="evaluation 'probes'.*probe"):
        evaluate_run(folder, ["health", "probes"])
    with pytest.raises(ValueError, match="format 'onnx'.*hf, safetensors, stablehlo"):
        export_run(folder, tmp_path, ["onnx"])
    with pytest.raises(ValueError, match="--format is needed; there are hf"):
        export_run(folder, tmp_path, [])
    with pytest.raises(ValueError, match=r"holds no step 7; it holds \[1, 2\]"):
        evaluate_run(folder, step=7)
    with pytest.raises(ValueError, match="no run was started there"):
        evaluate_run(tmp_path)
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "config.json").write_text((run / "config.json").read_text() + " ")
    with pytest.raises(
        ValueError, match="run/config.json is not what the run recorded"
    ):
        evaluate_run(run)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(ValueError, match="holds no finished checkpoint yet"):
        evaluate_run(tmp_path)


def command(name, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *flags],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("evaluate", [], "--workdir=DIR is needed"),
        ("evaluate", ["--workdir=nowhere"], "no run was started there"),
        ("evaluate", ["--workdir=x", "--step=last"], "--step=last"),
        ("export", ["--workdir=x"], "--out=OUT is needed"),
        ("export", ["--workdir=nowhere", "--out=x", "--format=hf"], "no run was"),
    ],
)
def test_mistakes_are_reported_in_one_sentence(name, flags, words):
    done = command(name, *flags)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and words in line


def test_commands_evaluate_and_export(trained, tmp_path):
    folder, out = trained[0], tmp_path / "out"
    done = command("evaluate", f"--workdir={folder}", "--eval=health", "--step=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step 1 health:  ")
    flags = f"--workdir={folder}", f"--out={out}", "--format=safetensors,hf"
    done = command("export", *flags)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        str(out / "safetensors"),
        str(out / "hf"),
    ]
    with open(out / "hf" / "config.json", "a") as file:
        file.write(" ")
    done = command("verify", f"--weights={out}")
    assert done.returncode == 1 and not done.stderr
    assert done.stdout.splitlines() == [
        f"DAMAGED  {out}/hf: config.json is not what was written, by its SHA-256",
        f"ok       {out}/safetensors: 1 of 1 files are what was written",
        "1 of 2 items are damaged",
    ]
