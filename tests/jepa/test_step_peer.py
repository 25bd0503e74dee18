"""Steps in PyTorch: first losses and gradients of every method are ours."""

import importlib

import jax
import numpy as np
import pytest

from configs import jepa, lewm
from core.config import load_method
from core.parallel.layouts import unbox
from jepa.nets import model
from jepa.perf import peer

SMALL = {"batch": 4, "encoder.size": "mini", "predictor.depth": 1, "data.workers": 0}
METHODS = {
    "pretrain": ("tiny", SMALL),
    "dense": ("tiny_dense", SMALL | {"encoder.levels": 2, "predictor.levels": 2}),
    "levjepa": (
        "tiny_levjepa",
        {"batch": 6, "encoder.size": "mini", "data.workers": 0},
    ),
    "image": ("tiny_image", SMALL),
    "lewm": (
        "",
        {"batch": 6, "predictor.depth": 1, "data.source": "two_rooms:8:32"},
    ),
}


def random_state(method):
    """Weights of which none is zero, moments of zero."""
    rng = np.random.default_rng(0)
    shapes = unbox(jax.eval_shape(method.init, jax.random.key(0)))

    def draw(path, x):
        numbers = 0.05 * rng.standard_normal(x.shape)
        return (numbers + (path[-1].key == "scale")).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes.params)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = state.replace(params=params)
    if "target" in state.__dataclass_fields__:
        state = state.replace(target=params["encoder"])
    if hasattr(state, "actions"):
        state.actions["std"][:] = 2.0
    return state


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradients_in_pytorch_are_ours(name, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", lambda f, **how: f)  # same numbers, sooner
    monkeypatch.setitem(model.SIZES, "mini", (32, 2, 2, 64))
    preset, changes = METHODS[name]
    config = jepa.get_config(preset) if preset else lewm.get_config("two_rooms")
    config.update_from_flattened_dict(changes)
    config = peer.comparable(config, "torch")
    method = load_method(config)
    source = method.source("train", (0, 1))
    batch = source.next()
    source.close()
    state = random_state(method)
    batch = peer.prepare(config, "torch", state, batch, tmp_path)
    metrics = jax.jit(method.step)(state, batch)[1]
    module = peer.module_of(config, "torch")
    program = importlib.import_module(f"jepa.perf.peer_{module}").Program(tmp_path)
    loss = program.loss()
    loss.backward()
    assert loss.item() == pytest.approx(float(metrics["loss"]), rel=1e-5)
    norm = torch.stack([p.grad.square().sum() for p in program.trained]).sum().sqrt()
    assert norm.item() == pytest.approx(float(metrics["grad_norm"]), rel=1e-4)
    sizes = sum(x.size for x in jax.tree.leaves(state.params))
    assert sum(p.numel() for p in program.trained) == sizes
    assert len(program.averages) == len(program.averaged)


def test_a_method_without_a_peer_is_named():
    config = jepa.get_config("tiny")
    config.method = "jepa.pldm"
    with pytest.raises(
        ValueError, match="--peer=torch has no step of method jepa.pldm"
    ):
        peer.comparable(config, "torch", python="another")
