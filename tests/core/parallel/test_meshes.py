"""Any mesh trains the same run, and so does gradient accumulation."""

import functools

import jax
import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from core.nn import token_groups

STEPS = 5
MESHES = {
    "jepa": [
        {"fsdp": 8},
        {"data": 2, "fsdp": 2, "sequence": 2},
        {"replica": 2, "fsdp": 2, "tensor": 2},
    ],
    "dreamer": [{"replica": 2, "fsdp": 2, "tensor": 2}],
}
# A rate at which weights change. An optimizer with a small eps would turn gradients that
# are rounding noise into full steps, so both configs set a large one.
CONSTANT = {"kind": "constant", "value": 1e-3}


def jepa(patterns=2, **fields):
    config = small.small(**{"dtype": "float32", "optimizer__eps": 1e-4, **fields})
    config.optimizer.lr = ConfigDict(CONSTANT)
    if patterns == 1:
        del config.masks.patterns["steps"]
    return config


def dream(**fields):
    config = small.dream(**{"behavior": "actor", "model__deter": 32, **fields})
    config.imagination.horizon = 3
    config.optimizer.lr = ConfigDict(CONSTANT)
    config.optimizer.eps = 1e-4
    return config


CONFIGS = {"jepa": jepa, "dreamer": dream}


def run(config, mesh, steps=STEPS):
    """(state, [loss, gradient norm] per step, program) of a run on a mesh."""
    states, metrics, plan = small.run_on(config, mesh, steps)
    return states[-1], [[x["loss"], x["grad_norm"]] for x in metrics], plan


@functools.cache
def on_one_device(name, steps=STEPS, **fields):
    """(state, numbers) of a run on one device."""
    state, found, _ = run(CONFIGS[name](**fields), {"data": 1}, steps)
    return jax.device_get(state), found


def assert_close(state, found, name):
    expected, numbers = on_one_device(name)
    np.testing.assert_allclose(found, numbers, rtol=1e-5)
    close = dict(atol=1e-5, rtol=0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close),
        jax.device_get(state.params),
        expected.params,
    )


@pytest.mark.parametrize(
    ("name", "mesh"),
    [(k, mesh) for k, rows in MESHES.items() for mesh in rows],
    ids=str,
)
def test_any_mesh_trains_the_same_run(name, mesh, capfd):
    state, found, plan = run(CONFIGS[name](), mesh)
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
    assert_close(state, found, name)
    assert plan.step._cache_size() == 1
    assert jax.tree.map(lambda x: x.sharding, state) == plan.layouts


@pytest.mark.parametrize(
    ("name", "mesh"),
    [("jepa", {"data": 2, "fsdp": 2}), ("dreamer", {"data": 1})],
    ids=str,
)
def test_accumulation_gives_the_same_update(name, mesh):
    jitter = {"colour__brightness": 0.4, "patterns": 1}
    fields = jitter if name == "jepa" else {"behavior": "none"}
    whole, numbers = on_one_device(name, steps=3, **fields)
    parts, found, _ = run(CONFIGS[name](accumulate=2, **fields), mesh, steps=3)
    np.testing.assert_allclose(found, numbers, rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=0)
    jax.tree.map(close, *(jax.device_get(s.params) for s in (parts, whole)))


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("jepa", {"accumulate": 3}, "batch 8 .* 3 parts .* use accumulate 2"),
        ("jepa", {"accumulate": 2, "objective__vicreg": 1.0}, "all clips of a batch"),
        ("dreamer", {"accumulate": 2}, "range of all returns .* use 1"),
    ],
)
def test_impossible_accumulation_raises(name, fields, words):
    with pytest.raises(ValueError, match=words):
        run(CONFIGS[name](**fields), {"data": 2}, steps=1)


def test_terms_of_the_whole_batch_include_all_devices():
    fields = {"objective__vicreg": 0.5, "objective__sigreg": 0.1, "patterns": 1}
    _, numbers, _ = run(jepa(**fields), {"data": 1}, steps=2)
    _, found, _ = run(jepa(**fields), {"data": 2, "fsdp": 2}, steps=2)
    np.testing.assert_allclose(found, numbers, rtol=2e-5)


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ({"tensor": 8}, "mesh.tensor 8 does not divide 4 heads; use 4"),
        ({"sequence": 3}, "mesh.sequence 3 does not divide the 16 tokens .* use 2"),
    ],
)
def test_an_axis_that_does_not_divide_raises(mesh, words):
    with pytest.raises(ValueError, match=words):
        run(jepa(), mesh, steps=1)


def test_valid_tokens_come_first_where_a_kernel_requires_it(monkeypatch):
    """The token order of cuDNN on devices that share tokens, with a plain kernel."""
    numbers = on_one_device("jepa")[1][:2]
    monkeypatch.setattr(token_groups, "VALID_FIRST", ("chunked",))
    _, found, _ = run(jepa(), {"sequence": 2}, steps=2)
    np.testing.assert_allclose(found, numbers, rtol=1e-5)
