"""The frozen probe: planted codes are read, noise is not, scores are in closed form."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.jepa import get_config
from core.config import load_method
from jepa.evals import probe, standard

GRID, FRAMES, BODIES = (2, 3, 3), 4, 2
N, D = 18, 24


def clips(count, seed, *, planted):
    """Labelled clips whose `video` is features already: [count, N, D].

    planted: the tokens of a time step hold the labels of its frames, mixed linearly.
    """
    rng = np.random.default_rng(seed)
    labels = rng.uniform(-1, 1, (count, FRAMES, BODIES, 4)).astype(np.float32)
    video = 0.1 * rng.standard_normal((count, N, D))
    if planted:
        mixing = np.random.default_rng(99).standard_normal((2 * BODIES * 4, D))
        code = labels.reshape(count, 2, -1) @ mixing
        video += np.repeat(code, 9, 1)
    position, velocity = labels[..., :2], labels[..., 2:]
    return {"video": video, "position": position, "velocity": velocity}


def score(planted):
    train, held = (clips(n, seed, planted=planted) for n, seed in ((400, 1), (100, 2)))
    readout = probe.Readout(bodies=BODIES, grid=GRID, frames=FRAMES, width=64, heads=4)
    scores, predicted = probe.probe(
        jnp.asarray, train, held, readout, steps=300, batch=64, lr=3e-3
    )
    assert predicted.shape == (100, FRAMES, BODIES, 4)
    assert scores == probe.r2(predicted, probe.labels_of(held))
    return scores


def test_readout_recovers_a_planted_code():
    position, velocity = score(planted=True)
    assert position > 0.9 and velocity > 0.9


def test_readout_finds_nothing_in_noise():
    position, velocity = score(planted=False)
    assert position < 0.05 and velocity < 0.05


def test_readout_answers_for_the_time_step_that_is_asked():
    """Changing features of one step barely changes predictions for the other."""
    readout = probe.Readout(bodies=BODIES, grid=GRID, frames=FRAMES, width=64, heads=4)
    tokens = jax.random.normal(jax.random.key(0), (3, N, D))
    params = jax.jit(readout.init)(jax.random.key(1), tokens)
    other, read = tokens.at[:, 9:].set(0), jax.jit(readout.apply)
    move = jnp.abs(read(params, tokens) - read(params, other))
    early, late = move[:, :2].mean(), move[:, 2:].mean()
    assert late > 1.5 * early


def test_readout_compares_time_steps():
    """If tokens encode only positions, velocity is the change between steps."""
    scores = []
    for n, seed in ((600, 1), (100, 2)):
        sample = clips(n, seed, planted=False)
        place = sample["position"][:, ::2].repeat(2, 1)  # one a step
        sample["position"] = place
        sample["velocity"] = (place[:, 2:] - place[:, :2]).repeat(2, 1)
        mixing = np.random.default_rng(99).standard_normal((BODIES * 2, D))
        code = place[:, ::2].reshape(n, 2, -1) @ mixing
        sample["video"] += np.repeat(code, 9, 1)
        scores.append(sample)
    readout = probe.Readout(bodies=BODIES, grid=GRID, frames=FRAMES, width=64, heads=4)
    (position, velocity), _ = probe.probe(
        jnp.asarray, *scores, readout, steps=300, batch=64, lr=3e-3
    )
    assert position > 0.9 and velocity > 0.9


def test_r2_is_as_defined():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((50, FRAMES, BODIES, 4)) * (1, 2, 3, 4) + 5
    assert probe.r2(true, true) == (1, 1)
    mean = np.broadcast_to(true.mean((0, 1)), true.shape)
    assert probe.r2(mean, true) == pytest.approx((0, 0), abs=1e-12)
    off = true.copy()
    off[..., :2] += 0.5
    spread = true.reshape(-1, BODIES, 4).var(0)
    position = np.mean(1 - 0.25 / spread[:, :2])
    assert probe.r2(off, true) == pytest.approx((position, 1))
    off = true.copy()
    off[:, :, 1, 3] = true[:, :, 1, 3].mean()
    assert probe.r2(off, true) == pytest.approx((1, 0.75))


def test_labels_have_unit_variance_after_their_moments():
    labels = probe.labels_of(clips(100, 0, planted=False)) * 7 + 3
    mean, std = probe.moments(labels)
    unit = (labels - mean) / std
    np.testing.assert_allclose(unit.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(unit.std((0, 1)), 1, atol=1e-4)
    still = np.ones((3, 2, 1, 4), np.float32)  # a body that does not move
    mean, std = probe.moments(still)
    assert np.isfinite((still - mean) / std).all()


def test_batches_are_concatenated_in_order():
    x = np.arange(23)
    np.testing.assert_array_equal(probe.in_batches(lambda y: y * 2, x, 5), x * 2)


def test_a_probe_has_clips_that_no_encoder_is_trained_on(monkeypatch):
    """The encoder sees clips of `world`, the twin their labels too, the probe others."""
    given = {}
    score = functools.wraps(standard.make_score)(lambda **kw: given.update(kw))
    monkeypatch.setattr(standard, "make_score", score)
    monkeypatch.setattr(
        standard, "make_twin", lambda *_, source: given.update(twin=source)
    )
    config = get_config("tiny")
    config.batch, config.data.workers = 3, 0
    method = load_method(config)
    videos = []
    for open_source in (given["twin"], lambda: method.source("train", (0, 1))):
        with contextlib.closing(open_source()) as source:
            videos.append([*source.next()["video"]])
    videos += [
        [given[k].load(i)["video"] for i in range(3)] for k in ("train", "validation")
    ]
    twin, encoder, fitted, scored = ({v.tobytes() for v in part} for part in videos)
    assert twin == encoder and len(twin | fitted | scored) == 9
