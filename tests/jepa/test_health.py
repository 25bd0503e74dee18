"""Health numbers: ranks of planted spectra, baselines against loops, known states."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import plain_vjepa
import pytest

from core.method import Watch
from core.parallel.layouts import unbox
from jepa.evals import health
from jepa.inputs.masks import Masker, Pattern
from jepa.nets.model import MEAN, STD, Encoder, Predictor
from jepa.pretrain import State, make_init
from jepa.weights.meta_names import to_theirs

GRID = (2, 4, 4)


def planted(values, n=60, D=12, seed=0):
    """Rows whose centered singular values are `values`."""
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((n, len(values)))
    left, _ = np.linalg.qr(left - left.mean(0))
    right, _ = np.linalg.qr(rng.standard_normal((D, len(values))))
    return left * values @ right.T


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_effective_rank_counts_equal_directions(rank):
    x = planted(np.full(rank, 5.0))
    np.testing.assert_allclose(health.effective_rank(x + 7), rank, rtol=1e-6)


def test_effective_rank_weighs_unequal_directions():
    values = np.array([8.0, 4.0, 2.0, 1.0])
    p = values / values.sum()
    expected = np.exp(-sum(q * np.log(q) for q in p))
    found = health.effective_rank(planted(values))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(health.effective_rank(100 * planted(values)), found)
    assert health.effective_rank(np.ones((9, 4))) == pytest.approx(1)


def test_nearest_token_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    N = np.prod(GRID)
    context = np.stack([rng.permutation(N)[:7] for _ in range(5)])
    target = np.stack([rng.permutation(N)[:9] for _ in range(5)])
    valid = np.arange(7) < rng.integers(2, 8, (5, 1))
    rows = np.asarray(health.nearest_visible(context, valid, target, GRID))
    for b in range(5):
        for m in range(9):
            here = np.array(np.unravel_index(target[b, m], GRID))
            away = [
                np.square(here - np.unravel_index(c, GRID)).sum() if ok else np.inf
                for c, ok in zip(context[b], valid[b], strict=True)
            ]
            assert away[rows[b, m]] == min(away)


@pytest.fixture(scope="module")
def panel():
    """(health, networks, masker, batch, state) of a tiny model."""
    size = {"width": 24, "depth": 1, "heads": 2, "hidden": 48}
    encoder = Encoder(**size, patch=(1, 4, 4), positions="paired")
    predictor = Predictor(**size, out=24, positions="paired")
    pattern = Pattern(2, (0.3, 0.3), context=8, target=6)
    masker = Masker((pattern, pattern), GRID, 6, 0)
    rng = np.random.default_rng(0)
    items = [
        masker({"video": rng.integers(0, 256, (2, 16, 16, 3), np.uint8)}, i, rng)
        for i in range(6)
    ]
    batch = {k: np.stack([item[k] for item in items]) for k in items[0]}
    init = make_init(encoder, predictor, grid=GRID)
    state = jax.jit(lambda key: unbox(init(key)))(jax.random.key(0))
    measure = health.make_health(
        encoder, predictor, masker, mask_tokens=(0, 0), batch=lambda: batch
    )
    return types.SimpleNamespace(
        measure=measure, encoder=encoder, batch=batch, state=state, masker=masker
    )


def targets(panel, params):
    """Normalized features of every token, computed in numpy."""
    tensors = to_theirs(params, panel.encoder)
    clips = (panel.batch["video"] / 255 - MEAN) / STD
    x = [plain_vjepa.encoder(tensors, clip, heads=2, tiled=False) for clip in clips]
    return plain_vjepa.norm(None, None, np.stack(x), 1e-5)


def test_panel_of_a_fresh_model(panel):
    found = panel.measure(panel.state, Watch())
    assert found["ema_distance"] == 0
    truth = targets(panel, panel.state.target)
    np.testing.assert_allclose(found["target_std"], truth.std((0, 1)).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        found["target_std_clips"], truth.std(0).mean(), rtol=1e-5
    )
    rank = health.effective_rank(truth.reshape(-1, 24))
    np.testing.assert_allclose(found["rank_tokens"], rank, rtol=1e-3)
    rank = health.effective_rank(truth.mean(1))
    np.testing.assert_allclose(found["rank_pooled"], rank, rtol=1e-3)
    assert found["alarms"] == []


def test_copying_is_that_of_a_loop(panel):
    """Mean error of the target at the nearest visible token of the same pattern."""
    truth, total, count = targets(panel, panel.state.target), 0.0, 0
    batch, sizes = panel.batch, panel.masker.sizes
    for p, (c, m) in enumerate(zip(sizes("context"), sizes("target"), strict=True)):
        for b in range(6):
            seen = batch["context"][b, p * c : (p + 1) * c]
            seen = seen[batch["context_valid"][b, p * c : (p + 1) * c]]
            places = np.stack(np.unravel_index(seen, GRID), -1)
            for j in range(p * m, (p + 1) * m):
                if batch["target_valid"][b, j]:
                    here = np.array(np.unravel_index(batch["target"][b, j], GRID))
                    near = seen[np.square(places - here).sum(-1).argmin()]
                    gap = truth[b, near] - truth[b, batch["target"][b, j]]
                    total, count = total + np.abs(gap).mean(), count + 1
    found = panel.measure(panel.state, Watch())
    copied = found["loss_masked"] / found["copy_ratio"]
    np.testing.assert_allclose(copied, total / count, rtol=1e-4)


def test_collapse_raises_alarms(panel):
    """An encoder that gives every token the same vector."""
    state = panel.state
    target = jax.tree.map(jnp.zeros_like, state.target)
    target["norm"]["bias"] = jnp.arange(24.0)
    found = panel.measure(
        State(state.step, state.params, target, state.opt, 0), Watch()
    )
    assert found["target_std"] < 1e-3 and found["target_std_clips"] < 1e-3
    assert any("targets have collapsed" in text for text in found["alarms"])
    assert found["ema_distance"] > 0.5


def test_drift_is_relative(panel):
    state = panel.state
    target = jax.tree.map(lambda x: 0.9 * x, state.params["encoder"])
    found = panel.measure(
        State(state.step, state.params, target, state.opt, 0), Watch()
    )
    np.testing.assert_allclose(found["ema_distance"], 0.1, rtol=1e-4)
