"""LeVJEPA: networks and loss against plain numpy, any mesh, exact resume, health, exports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import plain_vjepa
import pytest
from ml_collections import ConfigDict
from small import changed, record, run_on, share_programs, use_one_device

from configs.jepa import get_config
from core import train
from core.config import load_method
from core.export.export_run import export_run
from core.method import Watch
from core.parallel.layouts import unbox
from jepa.evals.view_health import make_health
from jepa.evals.view_pictures import paste
from jepa.levjepa import make_embed, make_loss
from jepa.losses.sigreg import sigreg
from jepa.nets import model
from jepa.nets.model import MEAN, STD, Encoder
from jepa.nets.view_model import Projector, ViewEncoder
from jepa.weights.meta_names import to_theirs

SIZE = {"width": 24, "depth": 2, "heads": 2, "hidden": 48}
PATCH, GRID, LOCAL = (1, 4, 4), (4, 3, 3), (4, 2, 2)
ENCODER = ViewEncoder(**SIZE, patch=PATCH, remat="block")
PROJECTOR = Projector(hidden=16, out=6)
RNG = np.random.default_rng(0)
B, V = 5, 3


def small(**fields):
    """LeVJEPA in a few seconds."""
    config = get_config("tiny_levjepa")
    changes = {
        "batch": 8, "held_batch": 4, "steps": 4, "log_steps": 1, "save_steps": 2,
        "data": {"frames": 4, "workers": 0},
        "encoder": {"remat": "block"},
        "projector": {"hidden": 16, "out": 8},
        "views": {"count": 2, "keep": 0.2},
        "objective": {"slices": 16},
        "eval_steps": dict.fromkeys(config.eval_steps, -1),
        "optimizer": {"eps": 1e-4, "average": 0.9},
        "mesh": {"data": 1, "fsdp": 1},
    }  # fmt: skip
    config.optimizer.lr = ConfigDict({"kind": "constant", "value": 1e-3})
    return changed(config, changes, **fields)


@pytest.fixture(scope="module", autouse=True)
def size():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "tiny", tuple(SIZE.values()))
        yield


@functools.cache
def params():
    """Random weights of encoder and projector, norms and summary token too."""
    patches = jnp.zeros((1, GRID[0], 48))
    index = jnp.arange(GRID[0])[None] * 9
    shapes = {
        "encoder": jax.eval_shape(
            lambda: unbox(ENCODER.init(jax.random.key(0), patches, index, grid=GRID))
        ),
        "projector": jax.eval_shape(
            lambda: unbox(PROJECTOR.init(jax.random.key(0), jnp.zeros((1, 1, 24))))
        ),
    }
    return jax.tree.map(
        lambda x: jnp.asarray(RNG.normal(0, 0.3, x.shape), jnp.float32),
        {name: x["params"] for name, x in shapes.items()},
    )


@functools.cache
def batch():
    def draw(*shape):
        return RNG.integers(0, 256, (*shape, 48), np.uint8)

    def index(grid, count, *shape):
        rows = [np.sort(RNG.permutation(np.prod(grid))[:count])
                for _ in range(int(np.prod(shape)))]  # fmt: skip
        return np.array(rows, np.int32).reshape(*shape, count)

    return {
        "patches": draw(B, 6), "index": index(GRID, 6, B),
        "local_patches": draw(B, V, 3), "local_index": index(LOCAL, 3, B, V),
        "local_mean": np.full((B, V, 3), 0.5, np.float32),
    }  # fmt: skip


@functools.partial(jax.jit, static_argnames=("encoder", "summary"))
def encoded(encoder, weights, patches, index, *, summary):
    return encoder.apply(weights, patches, index, grid=GRID, summary=summary)


def encode(encoder, patches, index=None, *, summary=False):
    weights = {"params": params()["encoder"]}
    return np.asarray(encoded(encoder, weights, patches, index, summary=summary))


def test_token_drop_is_a_shorter_sequence_with_the_same_positions():
    """Rotary positions are relative: a shift of all frames changes nothing."""
    patches = RNG.standard_normal((1, 5, 48)).astype(np.float32)
    index = np.array([[0, 4, 9, 13, 17]], np.int32)
    one = encode(ENCODER, patches, index)
    later = encode(ENCODER.clone(causal=False), patches, index + 18)
    # The summary token stays where it is, which these see a little of.
    assert one.shape == (1, 5, 24) and not np.allclose(one, later, atol=1e-6)
    order = [3, 1, 4, 0, 2]
    moved = encode(ENCODER, patches[:, order], index[:, order])
    np.testing.assert_allclose(moved, one[:, order], atol=1e-5)


def test_only_the_summary_token_sees_later_frames_of_a_causal_encoder():
    encoder = ENCODER.clone(causal=True)
    patches = RNG.standard_normal((1, 8, 48)).astype(np.float32)
    index = np.array([[1, 3, 9, 17, 20, 26, 27, 35]], np.int32)  # two of each frame
    other = patches.copy()
    other[:, 4:6] += 1  # frame 2
    for run, same in ((encoder, 4), (ENCODER, 0)):
        before, after = encode(run, patches, index), encode(run, other, index)
        changed = np.abs(before - after).max((0, 2)) > 1e-5
        assert list(changed) == [False] * same + [True] * (8 - same)
    summary = functools.partial(encode, encoder, index=index, summary=True)
    assert not np.allclose(summary(patches), summary(other), atol=1e-4)
    # No token reads the summary token.
    whole = encode(encoder, patches, index)
    with pytest.MonkeyPatch.context() as patch:
        changed = dict(params()["encoder"])
        changed["summary"] = changed["summary"] + 1
        patch.setitem(params(), "encoder", changed)
        np.testing.assert_allclose(encode(encoder, patches, index), whole, atol=1e-6)


def plain_projector(weights, x):
    """Batch norm over clips and views, in numpy."""
    x = x @ weights["up"]["kernel"] + weights["up"]["bias"]
    flat = x.reshape(-1, x.shape[-1])
    x = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    x = x * weights["scale"] + weights["bias"]
    x = np.asarray(jax.nn.gelu(x, approximate=False))
    return x @ weights["down"]["kernel"] + weights["down"]["bias"]


def test_loss_is_that_of_single_views():
    """Every view alone through the encoder; invariance and SIGReg by their formulas."""
    embed = make_embed(ENCODER, PROJECTOR, grid=GRID, local_grid=LOCAL)
    loss_fn = make_loss(embed, sigreg_weight=0.02, slices=64)
    key = jax.random.key(3)
    total, (metrics, _) = jax.jit(loss_fn)(params(), {}, batch(), key)
    features = np.zeros((B, 1 + V, 24), np.float32)
    weights, rows = params()["encoder"], batch()
    tensors = to_theirs(weights, Encoder(**SIZE, patch=PATCH))
    look = {"heads": SIZE["heads"], "summary": weights["summary"][0]}
    for b in range(B):
        for v in range(1 + V):
            names = ("patches", "index") if not v else ("local_patches", "local_index")
            patches, index = (rows[name][b] for name in names)
            if v:
                patches, index = patches[v - 1], index[v - 1]
            grid = LOCAL if v else GRID
            clip = np.zeros((np.prod(grid), 4, 4, 3))
            clip[index] = (patches.reshape(-1, 4, 4, 3) / 255 - MEAN) / STD
            t, h, w = grid
            clip = clip.reshape(t, h, w, 4, 4, 3).swapaxes(2, 3)
            clip = clip.reshape(t, 4 * h, 4 * w, 3)
            features[b, v] = plain_vjepa.encoder(tensors, clip, keep=index, **look)[-1]
    z = plain_projector(jax.device_get(params()["projector"]), features)
    invariance = np.square(z[:, :1] - z).mean()
    np.testing.assert_allclose(metrics["invariance"], invariance, rtol=1e-3)
    each = [sigreg(jnp.asarray(z[:, v]), jax.random.fold_in(key, 1), slices=64)
            for v in range(1 + V)]  # fmt: skip
    np.testing.assert_allclose(metrics["sigreg"], np.mean(each), rtol=1e-3)
    np.testing.assert_allclose(total, invariance + 0.02 * np.mean(each), rtol=1e-3)


def test_gradient_passes_through_both_sides_of_the_distance():
    """With the local views' patches as constants, the global view alone has a gradient."""

    def embed(params, batch):
        z = params["z"]
        return None, z

    loss_fn = make_loss(embed, sigreg_weight=0.0, slices=4)
    z = jnp.asarray(RNG.standard_normal((B, 1 + V, 3)), jnp.float32)
    grad = jax.grad(lambda z: loss_fn({"z": z}, {}, {}, jax.random.key(0))[0])(z)
    gap = (z[:, :1] - z) * 2 / z.size
    np.testing.assert_allclose(grad[:, 1:], -gap[:, 1:], rtol=1e-5)
    np.testing.assert_allclose(grad[:, 0], gap.sum(1), rtol=1e-4, atol=1e-7)


def run(mesh, start=None):
    """(states, [loss, gradient norm, SIGReg] per step) on a mesh, with an average."""
    states, metrics, _ = run_on(small(), mesh, steps=2, start=start)
    found = [[x[k] for k in ("loss", "grad_norm", "sigreg")] for x in metrics]
    return jax.device_get(states), found


def test_a_mesh_trains_the_same_run_with_the_same_average():
    """Statistics of SIGReg and of the batch norm are those of all clips."""
    states, found = run({"data": 1})
    split, numbers = run({"data": 2, "fsdp": 2}, states[0])
    np.testing.assert_allclose(numbers, found, rtol=2e-5)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=0)
    jax.tree.map(close, split[-1].params, states[-1].params)
    jax.tree.map(close, split[-1].target, states[-1].target)
    # Momentum 0.9: after one step a tenth of the way.
    encoders = [state.params["encoder"] for state in states[:2]]
    jax.tree.map(
        lambda a, b, c: close(c, a + 0.1 * (b - a)), *encoders, states[1].target
    )


def test_a_resumed_run_is_the_same_evaluated_and_exported(tmp_path, monkeypatch, capfd):
    use_one_device(monkeypatch)
    share_programs(monkeypatch)
    config = small(eval_steps__health=2)
    whole = train.fit(config, tmp_path / "whole")
    train.fit(small(eval_steps__health=2, steps=2), tmp_path / "parts")
    again = train.fit(config, tmp_path / "parts", allow_config_change=True)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(again)
    )
    assert (
        record(tmp_path / "whole")["metrics"] == record(tmp_path / "parts")["metrics"]
    )
    assert "step 2: health: " in capfd.readouterr().out
    export_run(tmp_path / "whole", tmp_path / "out", ["stablehlo"])
    card = (tmp_path / "out" / "stablehlo" / "README.md").read_text()
    assert "A LeVJEPA video encoder" in card and "moving average of the encoder" in card


def measured(z):
    """Numbers of the panel for embeddings [N, V, P], and what is said."""
    said = []
    panel = make_health(
        lambda params, batch: (z, z), width=z.shape[-1], batch=lambda: {"x": 0}
    )
    state = type("S", (), {"params": {"projector": 1}})
    return panel(state, Watch(say=said.append)), said[0]


def test_the_panel_tells_a_healthy_run_from_a_collapsed_one():
    z = jnp.asarray(RNG.standard_normal((64, 2, 16)), jnp.float32)
    found, said = measured(z)
    assert 0.5 < found["sigreg_ratio"] < 1.7 and found["alarms"] == []
    assert said.startswith("healthy: sigreg_held ")
    np.testing.assert_allclose(
        found["embedding_std"], np.median(z[:, 0].std(0)), rtol=1e-5
    )
    found, said = measured(0.01 * z + 3)
    assert said.startswith("collapsed: ")
    assert "embeddings have collapsed: SIGReg is" in found["alarms"][0]
    point, _ = measured(0 * z)
    np.testing.assert_allclose(point["sigreg_held"], 0.40205 * 64, rtol=1e-4)
    found, said = measured(jnp.broadcast_to(z[..., :1], z.shape))  # one direction
    assert said.startswith("collapsing: ") and found["rank_embeddings"] < 1.1


@pytest.mark.parametrize("letter, millions", [("b", 85.6), ("l", 303.1)])
def test_published_presets(letter, millions):
    """The released ViT-L has 303M parameters: V-JEPA's blocks, patch 1 x 16 x 16, a token."""
    config = get_config(f"levjepa_{letter}")
    method = load_method(config)
    shapes = unbox(jax.eval_shape(method.init, jax.random.key(0)))
    count = lambda tree: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))  # noqa: E731
    D, L, _, hidden = model.SIZES[letter.upper()]
    block = 4 * D * D + 2 * D * hidden + 9 * D + hidden
    assert count(shapes.params["encoder"]) == L * block + (768 + 1) * D + 3 * D
    assert round(count(shapes.target) / 1e6, 1) == millions
    assert count(shapes.params["projector"]) == 2048 * (D + 3) + 2048 * 256 + 256
    data, optimizer, views = config.data, config.optimizer, config.views
    found = (data.frames, data.fps, data.size, data.scale, config.batch)
    assert found == (16, 7.5, 224, (0.8, 1.0), 3072)
    assert (views.keep, views.count, views.size, views.scale) == (
        0.05,
        10,
        96,
        (0.02, 0.4),
    )
    assert tuple(config.colour.to_dict().values()) and optimizer.betas == (0.9, 0.95)
    assert (config.objective.sigreg_weight, config.objective.slices) == (0.02, 1024)
    assert set(config.eval_steps) == set(method.evals) and method.costs.flops > 0


def test_without_an_average_the_encoder_itself_is_evaluated():
    method = load_method(small(optimizer__average=0.0))
    state = unbox(jax.eval_shape(method.init, jax.random.key(0)))
    assert state.target is state.params["encoder"]
    assert method.frozen is not None and "online" not in method.frozen.weights
    assert "target" not in method.parts and method.frozen_fields == ("step", "params")


def test_dropped_tokens_are_gray_in_the_picture():
    patches = RNG.integers(0, 100, (2, 48), np.uint8)
    frames = paste(patches, np.array([3, 20]), GRID, PATCH)
    assert frames.shape == (4, 12, 12, 3)
    np.testing.assert_array_equal(frames[0, 4:8, :4], patches[0].reshape(4, 4, 3))
    np.testing.assert_array_equal(frames[2, :4, 8:], patches[1].reshape(4, 4, 3))
    assert (frames == 128).sum() == frames.size - 96
