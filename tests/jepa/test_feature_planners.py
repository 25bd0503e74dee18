"""Planners in frozen features as exports: bounds and names are those of the recordings."""

import json

import jax
import numpy as np
import pytest
import small

from configs import ac, dino_wm
from core.config import load_method
from core.export import artifacts
from core.parallel.layouts import unbox

SMALL = {
    "batch": 2,
    "random_encoder": True,
    "data": {"source": "two_rooms:64:32", "size": 32},
    "encoder": {"remat": "none", "attention": "plain"},
    "predictor": {"depth": 1, "heads": 2, "hidden": 32},
    "plan": {"horizon": 2, "execute": 1, "window": 1},
}
CONFIGS = {
    "ac": (ac, {"predictor": {"width": 24, "rope_grid": 2}}),
    "dino_wm": (dino_wm, {"predictor": {"head_dim": 12}}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_exported_planner_knows_actions_of_the_recordings(name, tmp_path):
    family, more = CONFIGS[name]
    config = family.get_config("two_rooms")
    for changes in (SMALL, more):
        small.changed(config, changes)
    config.plan.planners[config.plan.exported] = {
        "kind": "cem", "candidates": 4, "best": 2, "rounds": 1,
    }  # fmt: skip
    method = load_method(config)
    state = jax.jit(lambda key: unbox(method.init(key)))(jax.random.key(0))
    origin = {"parent": "run", "revision": "1", "devices": "cpu", "packages": {}}
    assert method.exports["planner"](state, tmp_path, origin) < 1e-3
    about = json.loads((tmp_path / "planner.json").read_text())
    assert about["rate"] == 10
    for part, word in zip(about["action"], ("right", "down"), strict=True):
        assert (part["name"], part["low"], part["high"]) == (word, -1, 1)
    program = artifacts.load(tmp_path, "planner")
    inputs = {k: np.full(x["shape"], 7, x["dtype"]) for k, x in about["inputs"].items()}
    inputs |= {k: np.zeros_like(inputs[k]) for k in about["state"]}
    action = np.asarray(program(inputs)["action"])
    assert (np.abs(action) <= 1).all()
