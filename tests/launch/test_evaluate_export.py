"""A small run is evaluated and exported; artifacts equal the live model."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from small import ROOT, small, use_devices

from core.base.pictures import encode_png
from core.evals.evaluate import evaluate_run
from core.export import artifacts
from core.export.export_run import Conditions, export_run
from core.export.listing import origin_lines
from core.method import Watch
from core.nn.layers import normalize
from core.nn.token_order import take
from core.nn.transformer import Transformer
from core.parallel.mesh import make_mesh
from core.runs import lineage, restore
from core.train import fit
from jepa.nets.encode import make_encode
from jepa.nets.model import (
    SIZES,
    Encoder,
    Predictor,
    encoder_size,
    grid_of,
    patchify,
    positional,
    standardize,
)
from jepa.weights import hf_weights
from jepa.weights.readers import read_export

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


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 2)
        yield


@pytest.fixture(scope="module")
def trained(two_devices, tmp_path_factory):
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


def features(state, params=None):
    """Features of `clip` by the live encoder built from the config, by default the target."""
    fields = config().encoder
    place = {"patch": fields.patch, "positions": fields.positions}
    encoder = Encoder(**encoder_size(fields.size), **place)
    return jax.jit(make_encode(encoder))(params or state.target, {"video": clip()})


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
    with jax.set_mesh(make_mesh(devices=jax.devices()[:2], fsdp=-1)):
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
    encoder, predictor, params = hf_weights.read_hf(exported / "hf")
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
    from jepa.weights.exports import run_hf

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


@pytest.fixture(scope="module")
def chosen(trained, tmp_path_factory):
    """An export of the online encoder with predictor and two levels."""
    out = tmp_path_factory.mktemp("chosen")
    options = {"encoder": "online", "predictor": True, "levels": (0, 2)}
    export_run(trained[0], out, ["stablehlo", "safetensors"], **options)
    return out


def test_levels_are_those_of_a_shorter_encoder(trained, chosen):
    """Block 2 of four, then the final norm, by the parts of the network themselves."""
    online = trained[1].params["encoder"]
    found = artifacts.load(chosen / "stablehlo", "model")({"video": clip()})
    assert set(found) == {"features", "block0", "block2"}
    artifacts.check_same(found["features"], features(trained[1], online), atol=1e-5)
    fields = config().encoder
    e = Encoder(**encoder_size(fields.size), positions=fields.positions)
    patches = standardize(patchify(clip(), e.patch))
    grid = grid_of(clip().shape, e.patch)
    _, rope = positional(
        np.arange(patches.shape[1])[None], grid,
        positions=e.positions, width=e.width, heads=e.heads,
    )  # fmt: skip
    x = patches @ online["embed"]["kernel"] + online["embed"]["bias"]
    stack = Transformer(1, e.heads, e.hidden, e.eps)
    for i in range(3):
        blocks = jax.tree.map(lambda w, i=i: w[i : i + 1], online["stack"]["blocks"])
        x = stack.apply({"params": {"blocks": blocks}}, x, rope)
    scale, bias = online["norm"]["scale"], online["norm"]["bias"]
    expected = np.asarray(normalize(x, eps=e.eps) * scale + bias)
    artifacts.check_same(np.asarray(found["block2"]), expected, atol=1e-5)


def test_the_predictor_of_an_export_predicts_hidden_tokens(trained, chosen):
    state, tokens = trained[1], features(trained[1], trained[1].params["encoder"])
    N, fields = tokens.shape[1], config().predictor
    visible = np.random.default_rng(1).permutation(np.arange(N) % 3 > 0)
    context, target = (np.tile(np.flatnonzero(x), (3, 1)) for x in (visible, ~visible))
    e = config().encoder
    predictor = Predictor(
        **fields.to_dict(), out=tokens.shape[-1], positions=e.positions
    )
    expected = predictor.apply(
        {"params": state.params["predictor"]}, take(tokens, context), context, target,
        grid=grid_of(clip().shape, e.patch), use=(0,),
    )  # fmt: skip
    guess = artifacts.load(chosen / "stablehlo", "predictor")
    found = guess({"features": tokens, "visible": np.tile(visible, (3, 1))})
    found = np.asarray(take(found, target))
    assert found.std() > 0.01
    artifacts.check_same(found, np.asarray(expected), atol=1e-5)


def test_an_export_says_what_was_chosen_and_can_be_read(trained, chosen):
    online = trained[1].params["encoder"]
    for name in ("stablehlo", "safetensors"):
        parts = read_export(chosen / name, ())
        assert parts.keys() == {"encoder", "predictor"}
        artifacts.check_same(parts["encoder"].arrays, online, atol=0)
        text = (chosen / name / "README.md").read_text()
        assert "The online encoder" in text and "Features of blocks 0, 2" in text
        about = json.loads((chosen / name / "provenance.json").read_text())["exported"]
        picked = (about["encoder"], about["predictor"], about["levels"])
        assert picked == ("online", True, [0, 2])


@pytest.mark.parametrize(
    ("format", "options", "words"),
    [
        ("hf", {"levels": (1,)}, "gives the tokens after every block by output_hidden"),
        (
            "hf",
            {"predictor": False},
            "folder always holds a predictor; transformers skips",
        ),
        ("safetensors", {"levels": (4,)}, "--levels names block 4; expected 0 to 3"),
        (
            "safetensors",
            {"encoder": "best"},
            "encoder 'best'; there are online, target",
        ),
        (
            "safetensors",
            {"color": 1},
            "--color=1: format 'safetensors' of this method has",
        ),
    ],
)
def test_choices_that_a_format_lacks_are_refused(
    format, options, words, trained, tmp_path
):
    with pytest.raises(ValueError, match=words):
        export_run(trained[0], tmp_path, [format], **options)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_refused(trained, tmp_path, monkeypatch):
    opened = restore.open_run(trained[0])

    def read(mesh):
        state, report = opened.read(mesh)
        bad = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(np.nan), state.target)
        return state.replace(target=bad), report

    bad = opened._replace(read=read)
    monkeypatch.setattr(restore, "open_run", lambda *_, **__: bad)
    with pytest.raises(ValueError, match="2: target/.* has values that are not finite"):
        export_run(trained[0], tmp_path, ["safetensors"])
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_with_fewer_layers_than_its_config_claims(
    trained, tmp_path, monkeypatch
):
    monkeypatch.setitem(SIZES, "deep", (128, 6, 4, 512))
    run = with_config(trained[0], tmp_path / "run", size="deep")
    with pytest.raises(ValueError, match=r"another network: .*blocks.* \(4, .* \(6, "):
        export_run(run, tmp_path / "out", ["safetensors"])


def test_promotion(trained, tmp_path, capsys):
    """Refused before the evaluation, promoted after it, then the measure of others."""
    folder, out = trained[0], tmp_path / "out"
    run = shutil.copytree(folder, tmp_path / "run")
    (run / lineage.LINEAGE).unlink(missing_ok=True)
    gate = Conditions(["health.loss_masked>0"])
    with pytest.raises(ValueError, match="'health' is missing in .*; run python -m"):
        export_run(run, out, ["safetensors"], conditions=gate)
    found = evaluate_run(run, ["health"])["health"]
    with pytest.raises(ValueError, match="health.loss_masked is 0.*, wanted >5"):
        strict = Conditions(["health.loss_masked>5"])
        export_run(run, out, ["safetensors"], conditions=strict)
    assert not out.exists()
    export_run(run, out, ["safetensors"], conditions=gate)
    first = out / "safetensors"
    assert "promoted by health.loss_masked>0" in capsys.readouterr().out
    known = json.loads((first / "provenance.json").read_text())
    assert known["findings"]["health.loss_masked"] == found["loss_masked"]
    assert f"| health.rank_tokens | {found['rank_tokens']:.3g}" in (
        first / "README.md"
    ).read_text().replace("0 |", " |")
    again = Conditions([], str(first))
    export_run(run, tmp_path / "same", ["safetensors"], conditions=again)
    known["findings"]["health.loss_masked"] /= 2
    (first / "provenance.json").write_text(json.dumps(known))
    with pytest.raises(
        ValueError, match="is worse than .*health.loss_masked is .*, was"
    ):
        export_run(run, tmp_path / "worse", ["safetensors"], conditions=again)
    lines = [x for x in lineage.read(run / lineage.LINEAGE) if x["kind"] == "export"]
    manifest = (run / "checkpoints" / "2" / "SHA256SUMS").read_bytes()
    for line in lines:
        assert line["digest"] == hashlib.sha256(manifest).hexdigest()
    assert [x["artifact"] for x in lines] == [
        str(first),
        f"{tmp_path}/same/safetensors",
    ]
    assert [x["promoted"] for x in lines] == [
        ["health.loss_masked>0"], [f"not worse than {first}"],
    ]  # fmt: skip


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


def test_exports_are_listed_and_know_their_checkpoint(trained, tmp_path):
    run, out = shutil.copytree(trained[0], tmp_path / "run"), tmp_path / "out"
    (run / lineage.LINEAGE).unlink(missing_ok=True)
    for step in (1, 2):
        export_run(run, out / str(step), ["safetensors"], step=step)
    export_run(run, out / "gone", ["safetensors"])
    shutil.rmtree(out / "gone")
    robot = shutil.copytree(out / "1" / "safetensors", tmp_path / "robot")
    with open(out / "2" / "safetensors" / artifacts.WEIGHTS, "ab") as file:
        file.write(b"x")
    done = command("export", "--list", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    parts = [re.sub(r"\d{4}-[^,]*", "TIME", x) for x in done.stdout.splitlines()]
    saved = run / "checkpoints"
    assert parts == [
        f"{out}/1/safetensors: from {saved}/1, TIME, not promoted, unchanged: 1 of 1 files "
        "are what was written",
        f"{out}/2/safetensors: from {saved}/2, TIME, not promoted, CHANGED: "
        "params.safetensors is not what was written, by its SHA-256",
        f"{out}/gone/safetensors: from {saved}/2, TIME, not promoted, no longer there",
    ]
    shutil.rmtree(run)
    shutil.rmtree(out)
    lines = list(origin_lines(robot))
    assert lines[:2] == [
        f"{robot}: unchanged: 1 of 1 files are what was written",
        f"checkpoint: {saved}/1",
    ]
    assert "data: computed" in lines and "not promoted" in lines
    with pytest.raises(ValueError, match="provenance.json does not exist"):
        list(origin_lines(tmp_path))


def test_commands_evaluate_and_export(trained, tmp_path):
    folder, out = trained[0], tmp_path / "out"
    done = command("evaluate", f"--workdir={folder}", "--eval=health", "--step=1")
    assert done.returncode == 0, done.stderr
    verdict, numbers = done.stdout.splitlines()
    assert verdict.startswith("health: ") and numbers.startswith("step 1 health:  ")
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
