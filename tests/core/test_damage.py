"""Random single-byte damages to checkpoints and exports are refused or change nothing."""

import contextlib
import random
import secrets

import jax
import numpy as np
import pytest
from small import dream, small
from tiny_vjepa2 import FIXTURE

from core.config import load_method
from core.export import artifacts
from core.parallel.layouts import unbox
from core.runs import checkpoint
from jepa.weights import hf_weights

DAMAGES = 500
ORIGIN = {
    "parent": "runs/x/checkpoints/7",
    "revision": "",
    "devices": "",
    "packages": {},
}
WORDS = {"title": "", "what": "", "network": "", "inputs": "", "config": {}}


def saved(config, folder):
    """A reader of a checkpoint of the method's whole state, filled at random."""
    method, rng = load_method(config), np.random.default_rng(0)
    shapes = unbox(jax.eval_shape(method.init, jax.random.key(0)))
    state = jax.tree.map(lambda x: rng.integers(0, 99, x.shape).astype(x.dtype), shapes)
    state = jax.device_put(state.replace(step=np.int32(7)))
    layouts = jax.tree.map(lambda x: x.sharding, state)
    with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(7, state, {"next_index": 56})

    def resume():
        with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
            return checkpoints.restore(shapes, layouts)

    return resume


def exported(folder, write, read):
    folder.mkdir()
    write(folder)
    return lambda: read(folder)


def programs(folder):
    params = {"a": {"kernel": np.arange(64, dtype=np.float32)}}
    specs = {"x": jax.ShapeDtypeStruct((1, 64), np.float32)}

    def double(params, inputs):
        return 2 * inputs["x"] * params["a"]["kernel"]

    artifacts.export_stablehlo(
        folder, {"one": (double, specs), "two": (double, specs)}, params,
        origin=ORIGIN, **WORDS,
    )  # fmt: skip


def run_programs(folder):
    inputs = {"x": np.ones((1, 64), np.float32)}
    return [np.asarray(artifacts.load(folder, name)(inputs)) for name in ("one", "two")]


def tensors(folder):
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": rng.standard_normal((64, 9)).astype(np.float32)}}
    artifacts.export_safetensors(folder, params, origin=ORIGIN, **WORDS)


def hugging_face(folder):
    encoder, predictor, params = hf_weights.read_hf(FIXTURE)
    hf_weights.write_hf(
        folder, params, encoder=encoder, predictor=predictor, crop_size=64, frames=4,
        mask_token=None, card="", origin=ORIGIN,
    )  # fmt: skip


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Folder of what is damaged -> function that reads it."""
    root = tmp_path_factory.mktemp("whole")
    return {
        root / "jepa" / "checkpoints" / "7": saved(small(), root / "jepa"),
        root / "dreamer" / "checkpoints" / "7": saved(dream(), root / "dreamer"),
        root / "hf": exported(root / "hf", hugging_face, hf_weights.read_hf),
        root / "st": exported(root / "st", tensors, artifacts.read_params),
        root / "hlo": exported(root / "hlo", programs, run_programs),
    }


@contextlib.contextmanager
def damaged(path, place, byte):
    """Exchange one byte of a file; yields the byte that was there."""
    with open(path, "r+b") as file:
        file.seek(place)
        before = file.read(1)
        file.seek(place)
        file.write(bytes([before[0] ^ byte]))
    yield
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(before)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_no_damage_is_silent(readers):
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    files = {
        x: [p for p in x.rglob("*") if p.stat().st_size and p.is_file()]
        for x in readers
    }
    whole = {folder: jax.device_get(read()) for folder, read in readers.items()}
    refused = dict.fromkeys(readers, 0)
    for _ in range(DAMAGES):
        folder = draw.choice(list(readers))
        sizes = [path.stat().st_size for path in files[folder]]
        # Half of the damages hit small files, too.
        odds = draw.choice([sizes, [1] * len(sizes)])
        [path] = draw.choices(files[folder], odds)
        place, byte = draw.randrange(path.stat().st_size), draw.randrange(1, 256)
        with damaged(path, place, byte):
            try:
                found = jax.device_get(readers[folder]())
            except ValueError as error:
                refused[folder] += 1
                assert "\n" not in str(error), (seed, path, place, byte)
                continue
        assert same(found, whole[folder]), (seed, path, place, byte)
    assert min(refused.values()) > DAMAGES / 25, (seed, refused)
