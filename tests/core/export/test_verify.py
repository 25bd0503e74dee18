"""A run at rest is checked item by item."""

import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from core.base.digests import SUMS
from core.base.files import digest, write_json
from core.export import artifacts
from core.export.verify import verify_run, verify_weights
from core.runs import checkpoint, integrity

ORIGIN = {"parent": "x", "revision": "", "devices": "", "packages": {}}
WORDS = {"title": "", "what": "", "network": "", "inputs": "", "config": {}}


@struct.dataclass
class State:
    step: object
    params: dict


@pytest.fixture
def run(tmp_path):
    """A folder like that of a run, with two checkpoints and an export."""
    write_json(tmp_path / "config.json", {"method": "jepa.pretrain"})
    origin = {"config.json": digest(tmp_path / "config.json")}
    write_json(tmp_path / "provenance.json", origin)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            state = State(jnp.int32(step), {"kernel": jnp.arange(6.0)})
            checkpoints.save(step, state, {"next_index": step})
    (tmp_path / "out" / "st").mkdir(parents=True)
    params = {"a": np.arange(6.0)}
    artifacts.export_safetensors(
        tmp_path / "out" / "st", params, origin=ORIGIN, **WORDS
    )
    return tmp_path


def problems(run):
    return {item: problem for item, problem, _ in verify_run(run) if problem}


def test_every_item_of_a_run_is_found_whole(run):
    (run / "checkpoints" / "2_copy").mkdir()
    found = [(item, note) for item, _, note in verify_run(run)]
    files = len((run / "checkpoints" / "1" / SUMS).read_text().splitlines())
    whole = f"{files} of {files} files are what was written"
    assert found == [
        ("config.json", "readable"),
        ("provenance.json", "readable"),
        ("metrics.jsonl", "2 lines"),
        ("checkpoints/1", whole),
        ("checkpoints/2", whole),
        ("checkpoints/2_copy", "ignored: not a finished step"),
        ("out/st", "1 of 1 files are what was written"),
    ]
    assert not problems(run)


def test_what_is_damaged_is_named(run):
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace("pretrain", "pretrail"))
    (run / "summary.json").write_text("{")
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"st\n')
    (run / "checkpoints" / "1" / "source" / "_METADATA").unlink()
    os.rename(run / "checkpoints" / "2", run / "checkpoints" / "3")
    with open(run / "out" / "st" / artifacts.WEIGHTS, "ab") as file:
        file.write(b"x")
    starts = {
        "config.json": f"{run}/config.json is not what the run recorded, by its SHA",
        "summary.json": f"{run}/summary.json is no valid JSON",
        "metrics.jsonl": "line 2 is damaged",
        "checkpoints/1": "source/_METADATA: no such file or directory",
        "checkpoints/3": f"checkpoint {run}/checkpoints/3 holds step 2, so it was",
        "out/st": "params.safetensors is not what was written, by its SHA-256",
    }
    found = problems(run)
    assert found.keys() == starts.keys()
    assert all(found[item].startswith(words) for item, words in starts.items()), found


def test_an_older_checkpoint_is_not_called_whole(run):
    folder = run / "checkpoints" / "2"
    (folder / SUMS).unlink()
    about = json.loads((folder / integrity.METADATA).read_text())
    (folder / integrity.METADATA).write_text(
        json.dumps(about | {"custom_metadata": {}})
    )
    [note] = [x.note for x in verify_run(run) if x.item == "checkpoints/2"]
    assert note.startswith("not verified: it has no digests")
    (folder / "state" / "manifest.ocdbt").write_bytes(b"")
    assert problems(run)["checkpoints/2"].startswith("its step cannot be read: ")


def test_exports_and_weights_of_others(run, tmp_path):
    st = run / "out" / "st"
    (st / "README.md").write_text("License: MIT")
    notes = "1 of 1 files are what was written; README.md was edited"
    for folder in (st, run / "out"):
        assert list(verify_weights(folder)) == [(str(st), "", notes)]
    others = tmp_path / "others"
    others.mkdir()
    shutil.copy(st / artifacts.WEIGHTS, others / "model.safetensors")
    [found] = verify_weights(others)
    assert found.note == "not verified: no digests; 1 tensors readable"
    os.truncate(others / "model.safetensors", 60)
    [found] = verify_weights(others)
    assert "model.safetensors cannot be read" in found.problem
    [found] = verify_weights(run / "checkpoints")
    assert "neither an export nor a *.safetensors file" in found.problem
