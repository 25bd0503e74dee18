"""Meta's file of V-JEPA 2.1 in place of a run: exported, refused, started from."""

import dense_files as files
import numpy as np
import plain_vjepa
import pytest
from small import changed, use_one_device

from configs.jepa import get_config
from core.export import artifacts
from core.export.export_run import export
from core.runs.restore import open_weights
from jepa.nets import model
from jepa.nets.model import MEAN, STD


@pytest.fixture(autouse=True)
def known_size(monkeypatch):
    """The networks of the file can be written as a config: the encoder has a size."""
    use_one_device(monkeypatch)
    size = (files.ENCODER["width"], files.ENCODER["depth"], files.HEADS)
    monkeypatch.setitem(model.SIZES, "file", (*size, files.ENCODER["hidden"]))


def matching(**fields):
    names = ("width", "depth", "hidden", "mask_tokens", "levels", "out")
    predictor = {name: files.DISTILLED[name] for name in names}
    changes = {
        "batch": 8,
        "data": {"frames": 4, "workers": 0},
        "encoder": {"size": "file", "levels": files.ENCODER["levels"], "rope_grid": 16}
        | {"remat": "block"},  # compiled in less time
        "predictor": predictor | {"heads": files.PREDICTOR_HEADS},
        "mesh": {"data": 1, "fsdp": 1},
    }
    return changed(get_config("tiny_dense"), changes, **fields)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """(path, tensors) of a file of a distilled model."""
    tensors = files.random(files.encoder_shapes(**files.ENCODER), 1)
    predictor = files.random(files.predictor_shapes(**files.DISTILLED), 2)
    folder = tmp_path_factory.mktemp("distilled")
    return files.write(folder, ema_encoder=tensors, predictor=predictor), tensors


def test_the_program_of_a_file_computes_its_features(distilled, tmp_path, capfd):
    """Meta's names in; out comes a program of the features that plain numpy computes."""
    path, tensors = distilled
    opened = open_weights(matching(), path, tmp_path)
    export(opened, tmp_path / "out", ["stablehlo"])
    video = np.random.default_rng(0).integers(0, 256, (1, 4, 64, 64, 3), np.uint8)
    for name, frames in (("model", 4), ("image", 1)):
        program = artifacts.load(tmp_path / "out/stablehlo", name)
        found = program({"video": video[:, :frames]})[0]
        clip = (video[0, :frames] / 255 - MEAN) / STD
        levels = plain_vjepa.encoder21(tensors, clip, heads=files.HEADS, levels=(1, 3))
        np.testing.assert_allclose(found, np.split(levels, 2, 1)[1], atol=1e-4)
    said = capfd.readouterr().out
    assert f"target: from ema_encoder of Meta file {path}" in said
    assert f"params/predictor: from predictor of Meta file {path}" in said
    with pytest.raises(ValueError, match="hf has no layout for V-JEPA 2.1"):
        export(opened, tmp_path / "out", ["hf"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["stablehlo"]


def test_a_config_of_another_depth_is_refused(distilled, tmp_path):
    path, _ = distilled
    opened = open_weights(matching(predictor__depth=24), path, tmp_path)
    with pytest.raises(
        ValueError, match="predictor.depth is 2 there, expected 24; use"
    ):
        export(opened, tmp_path / "out", ["safetensors"])
    assert not (tmp_path / "out" / "safetensors").exists()
