"""Losses against plain loops and against published or derived values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa.losses.masked import (
    masked_l1,
    moving,
    shift_to_motion,
    spread,
    token_weights,
    vicreg,
)
from jepa.losses.sigreg import sigreg

same = np.testing.assert_allclose
SIZES = (5, 3)  # tokens of two mask patterns


def arrays(seed=0, B=4, D=6):
    rng = np.random.default_rng(seed)
    M = sum(SIZES)
    guess, truth = rng.standard_normal((2, B, M, D)).astype(np.float32)
    valid = rng.random((B, M)) < 0.6
    return guess, truth, valid


def l1(guess, truth, valid):
    return masked_l1(guess, truth, token_weights(valid, SIZES), SIZES)


def loops(guess, truth, valid):
    """One number per pattern: the mean over its valid tokens of the whole batch."""
    terms, start = [], 0
    for size in SIZES:
        total, count = 0.0, 0
        for b in range(len(guess)):
            for m in range(start, start + size):
                if valid[b, m]:
                    total += np.abs(guess[b, m] - truth[b, m]).mean(dtype=np.float64)
                    count += 1
        terms.append(total / max(count, 1))
        start += size
    return terms


@pytest.mark.parametrize("seed", range(3))
def test_masked_l1_equals_a_loop(seed):
    guess, truth, valid = arrays(seed)
    loss, terms = l1(guess, truth, valid)
    same(terms, loops(guess, truth, valid), rtol=1e-6)
    same(loss, np.mean(loops(guess, truth, valid)), rtol=1e-6)


def test_padding_does_not_count():
    guess, truth, valid = arrays()
    wrong = jnp.where(valid[..., None], guess, 1e6)
    grad = jax.grad(lambda g: l1(g, truth, valid)[0])
    same(*(l1(g, truth, valid)[0] for g in (guess, wrong)))
    assert (np.asarray(grad(guess))[~valid] == 0).all()
    assert (np.asarray(grad(guess))[valid] != 0).all()


def test_a_pattern_without_targets_counts_as_zero():
    guess, truth, valid = arrays()
    valid[:, SIZES[0] :] = False
    loss, terms = l1(guess, truth, valid)
    assert terms[1] == 0 and loss == terms[0] / 2


def test_masked_l1_is_float32_whatever_comes_in():
    guess, truth, valid = arrays()
    half = jnp.asarray(guess, jnp.bfloat16)
    loss, _ = l1(half, truth, valid)
    assert loss.dtype == jnp.float32
    exact, _ = l1(np.asarray(half, np.float32), truth, valid)
    assert loss == exact


def test_vicreg_equals_its_formula():
    rng = np.random.default_rng(0)
    scale = np.array([0.1, 0.5, 1.0, 2.0, 1e-3])
    z = rng.standard_normal((40, 5)) @ rng.standard_normal((5, 5)) * scale
    N, D = z.shape
    cov = np.cov(z.T)
    hinge, off = 0.0, 0.0
    for i in range(D):
        hinge += max(0, 1 - np.sqrt(z[:, i].var() + 1e-4)) / D
        for j in range(D):
            off += cov[i, j] ** 2 / (D * (D - 1)) if i != j else 0
    same(vicreg(jnp.asarray(z, jnp.float32)), (hinge, off), rtol=1e-4)


def test_vicreg_rewards_spread_and_independence():
    rng = np.random.default_rng(0)
    good = vicreg(1.2 * rng.standard_normal((4000, 8)))
    assert max(map(float, good)) < 2e-3
    point = vicreg(np.ones((50, 8)))
    same(point, (0.99, 0), atol=1e-6)
    copies = np.repeat(1.2 * rng.standard_normal((4000, 1)), 8, 1)
    same(vicreg(copies)[1], 1.2**4, rtol=0.1)


def test_vicreg_leaves_padding_out():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((30, 6)).astype(np.float32)
    more = np.concatenate([z[:10], np.full((5, 6), 7, np.float32), z[10:]])
    weight = np.ones(35)
    weight[10:15] = 0
    same(vicreg(more, jnp.asarray(weight)), vicreg(z), rtol=1e-5)
    grad = jax.grad(lambda z: sum(vicreg(z, jnp.asarray(weight))))(jnp.asarray(more))
    assert (np.asarray(grad)[10:15] == 0).all() and np.isfinite(grad).all()


def test_spread_is_of_clip_means_and_of_tokens():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 5, 4)).astype(np.float32)
    valid = rng.random((12, 5)) < 0.7
    valid[:, 0] = True
    key = jax.random.key(3)
    clips = jnp.stack([f[v].mean(0) for f, v in zip(features, valid, strict=True)])
    place = rng.integers(3, size=(12, 5))
    middle = np.stack([features[valid & (place == i)].mean(0) for i in range(3)])
    tokens = jnp.asarray((features - middle[place])[valid])
    terms = [*vicreg(clips), *vicreg(tokens)]
    given = features, valid, place, key
    weights = {"sigreg_weight": 0, "vicreg_weight": 2.0}
    total, metrics = spread(*given, tokens=3, **weights)
    same(list(metrics.values()), terms, rtol=1e-5)
    same(total, 2 * sum(map(float, terms)), rtol=1e-5)
    weights = {"sigreg_weight": 0.1, "vicreg_weight": 0}
    total, metrics = spread(*given, tokens=3, **weights)
    same(metrics["sigreg"], sigreg(clips, key, slices=256), rtol=1e-5)
    same(total, 0.1 * metrics["sigreg"], rtol=1e-6)


def test_features_that_say_only_their_place_have_no_variance():
    rng = np.random.default_rng(0)
    places = rng.standard_normal((9, 6)).astype(np.float32)
    index = rng.integers(9, size=(16, 5))
    valid = jnp.ones((16, 5), bool)
    terms = {"tokens": 9, "sigreg_weight": 0, "vicreg_weight": 1}
    _, found = spread(jnp.asarray(places[index]), valid, index, None, **terms)
    same(found["variance_tokens"], 0.99, atol=1e-3)  # 1 - sqrt(1e-4)
    content = places[index] + 3 * rng.standard_normal((16, 5, 6)).astype(np.float32)
    _, found = spread(jnp.asarray(content), valid, index, None, **terms)
    assert found["variance_tokens"] == 0


def test_motion_is_the_distance_from_the_mean_of_the_clip():
    x = np.zeros((1, 3, 2, 4), np.uint8)  # three times, two cells, four pixels
    x[0, 1, 0] = 30
    found = moving(jnp.asarray(x.reshape(1, 6, 4)), (3, 1, 2))
    same(found[0], [10, 0, 20, 0, 10, 0], rtol=1e-6)


def test_a_share_of_the_weight_follows_motion():
    weight = jnp.asarray([[1.0, 1, 0, 2, 2]])
    motion = jnp.asarray([[3.0, 1, 9, 0, 0]])
    found = shift_to_motion(weight, motion, (3, 2), 0.5)
    same(found, [[0.5 + 0.75, 0.5 + 0.25, 0, 2, 2]], rtol=1e-6)
