"""Artifacts equal the live function and run without this repository."""

import functools
import hashlib
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from core.export import artifacts
from core.parallel.layouts import unbox
from core.runs import run_folder
from jepa.nets.encode import make_encode, video_specs
from jepa.nets.model import MEAN, STD, Encoder, grid_of
from jepa.weights.model_card import describe

CLIP = {"frames": 4, "rows": 32, "cols": 48}
ENCODER = Encoder(width=48, depth=2, heads=2, hidden=96, remat="block")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, live function, params) of a tiny encoder's artifact."""
    folder = tmp_path_factory.mktemp("artifact")
    specs, encode = video_specs(**CLIP), make_encode(ENCODER)
    grid = grid_of(specs["video"].shape, ENCODER.patch)
    patches = jnp.zeros((1, np.prod(grid), 2 * 16 * 16 * 3))
    init = functools.partial(ENCODER.init, grid=grid)
    params = jax.jit(lambda key: unbox(init(key, patches)))(jax.random.key(0))["params"]
    programs = {"model": (encode, specs)}
    artifacts.write_stablehlo(folder, programs, params)
    origin = run_folder.provenance("runs/x/checkpoints/7")
    card = artifacts.card(
        title="A tiny encoder",
        what="Made by a test.",
        network="Random.",
        inputs=describe(ENCODER, **CLIP),
        usage=artifacts.usage(programs),
        config={"seed": 0},
        origin=origin,
    )
    artifacts.finish(folder, card=card, origin=origin)
    return folder, jax.jit(encode), params


@pytest.mark.parametrize("batch", [1, 3])
def test_artifact_equals_the_live_function(exported, batch):
    folder, encode, params = exported
    inputs = artifacts.sample(video_specs(**CLIP), batch=batch)
    live = encode(params, inputs)
    assert live.shape == (batch, 12, 48) and live.dtype == jnp.float32
    artifacts.check_same(artifacts.load(folder, "model")(inputs), live, atol=1e-5)


# What `pip install jax numpy flatbuffers` brings, as names in the folder of packages.
ALONE = ("jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers")


def test_code_of_the_card_runs_alone(exported, tmp_path):
    """In a process that has no other packages, on three batch sizes."""
    folder, encode, params = exported
    site = pathlib.Path(np.__file__).parents[1]
    for name in (*ALONE, "numpy.libs", "scipy.libs"):
        if (site / name).exists():
            (tmp_path / name).symlink_to(site / name)
    (lines,) = re.findall(
        r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S
    )
    inputs = {
        str(batch): artifacts.sample(video_specs(**CLIP), batch=batch)["video"]
        for batch in (1, 3, 8)
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    code = f"""
import sys
sys.path.append({str(tmp_path)!r})
{lines}
assert outputs.shape == (1, 12, 48), outputs.shape
there = set(sys.modules) & {{"core", "jepa", "launch", "flax", "safetensors"}}
assert not there, there
videos = np.load({str(tmp_path / "inputs.npz")!r})
found = {{k: program.call(params, {{"video": x}}) for k, x in videos.items()}}
np.savez({str(tmp_path / "outputs.npz")!r}, **found)
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=folder, check=True)
    found = np.load(tmp_path / "outputs.npz")
    for batch, video in inputs.items():
        live = np.asarray(encode(params, {"video": video}))
        artifacts.check_same(found[batch], live, atol=1e-5)


def test_artifact_runs_on_every_platform(exported):
    folder, *_ = exported
    program = jax.export.deserialize(
        bytearray((folder / "model.stablehlo").read_bytes())
    )
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert str(program.in_avals[-1].shape) == "(batch, 4, 32, 48, 3)"


def test_provenance_holds_the_digest_of_every_file(exported):
    folder, *_ = exported
    origin = json.loads((folder / "provenance.json").read_text())
    assert origin["parent"] == "runs/x/checkpoints/7"
    names = {"README.md", "model.stablehlo", "params.safetensors"}
    assert set(origin["files"]) == names
    for name, value in origin["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == value


def test_card_has_shapes_provenance_and_config(exported):
    text = (exported[0] / "README.md").read_text()
    for words in ("[batch, 4, 32, 48, 3]", "0.485, 0.456, 0.406", "[batch, 12, 48]"):
        assert words in text
    assert "checkpoints/7" in text and '"seed": 0' in text


def test_bytes_and_standardized_floats_give_the_same_features(exported):
    _, encode, params = exported
    video = artifacts.sample(video_specs(**CLIP), batch=2)["video"]
    floats = ((video / 255 - MEAN) / STD).astype(np.float32)
    one, two = (encode(params, {"video": x}) for x in (video, floats))
    artifacts.check_same(one, two, atol=1e-5)


def test_export_inside_a_mesh_is_an_error(exported, tmp_path):
    if jax.device_count() == 1:
        pytest.skip("needs several devices")
    _, _, params = exported
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))

    def spread(params, inputs):
        return jax.lax.with_sharding_constraint(inputs, jax.P(None, "data"))

    specs = jax.ShapeDtypeStruct((1, 8), np.float32)
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="outside jax.set_mesh"):
        artifacts.write_stablehlo(tmp_path, {"model": (spread, specs)}, params)
    assert not list(tmp_path.iterdir())


def test_safetensors_hold_nested_params(tmp_path):
    params = {"a": {"b": np.arange(6.0).reshape(2, 3).T, "c": {}}, "d": jnp.ones(2)}
    artifacts.write_safetensors(tmp_path, params, {"made": "here"})
    again = artifacts.nest(artifacts.load_file(tmp_path / artifacts.WEIGHTS))
    expected = {"a": {"b": params["a"]["b"]}, "d": np.ones(2, np.float32)}
    assert artifacts.check_same(again, expected, atol=0) == 0
    for wrong in ({"a": [np.ones(2)]}, {"a/b": np.ones(2)}, {1: np.ones(2)}):
        with pytest.raises(ValueError, match="expected arrays in dicts"):
            artifacts.write_safetensors(tmp_path, wrong, {})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"a": {"b": [1.0, 2.5]}}, "a/b differs by 0.5, more than 0.1"),
        ({"a": {"b": [1.0, np.nan]}}, "a/b differs by nan"),
        ({"a": {"b": [1.0]}}, r"a/b is \(2,\) on one side, \(1,\) on the other"),
        ({"a": {"c": [1.0, 2.0]}}, "do not hold the same names"),
    ],
)
def test_check_same_names_what_differs(other, words):
    def arrays(tree):
        return {"a": {k: np.array(v) for k, v in tree["a"].items()}}

    one = arrays({"a": {"b": [1.0, 2.0]}})
    with pytest.raises(ValueError, match=words):
        artifacts.check_same(one, arrays(other), atol=0.1)
    assert artifacts.check_same(one, arrays({"a": {"b": [1.0, 2.05]}}), atol=0.1) > 0.04
