"""Color jitter against formulas in numpy: one factor per clip, the same in all frames."""

import functools

import jax
import numpy as np
import pytest
from small import small

from core.config import load_method
from core.parallel.layouts import unbox
from jepa.inputs.color_jitter import (
    NO_JITTER,
    Jitter,
    draw_factors,
    gray,
    standardize_clips,
)
from jepa.nets.model import MEAN, STD, patchify, standardize

PATCH = (2, 4, 4)
RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 256, (64, 4, 8, 8, 3)).astype(np.uint8)
PATCHES = patchify(VIDEO, PATCH)


def look_of(jitter, seed):
    factors = draw_factors(jitter, len(PATCHES), jax.random.key(seed))
    return standardize_clips(PATCHES, factors)


def looked(**jitter):
    """The network's input of the clips, back in [0, 1]: [B, n, P, 3]."""
    x = look_of(Jitter(**jitter), 3)
    x = np.asarray(x).reshape(*PATCHES.shape[:2], -1, 3)
    return x * np.asarray(STD) + np.asarray(MEAN)


PLAIN = np.asarray(PATCHES).reshape(*PATCHES.shape[:2], -1, 3) / 255
GRAY = PLAIN @ np.array([0.299, 0.587, 0.114])


def test_without_jitter_nothing_changes():
    np.testing.assert_array_equal(look_of(NO_JITTER, 0), standardize(PATCHES))
    np.testing.assert_allclose(looked(brightness=1e-9), PLAIN, atol=1e-5)


def factors_of(found, expected):
    """For each clip, the factor whose formula fits its values best, over all frames."""
    grid = np.linspace(0.3, 1.7, 1401)
    rows = range(len(found))
    return np.array(
        [
            grid[np.argmin([np.abs(found[i] - expected(i, f)).max() for f in grid])]
            for i in rows
        ]
    )


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("brightness", lambda i, f: np.clip(PLAIN[i] * f, 0, 1)),
        (
            "contrast",
            lambda i, f: np.clip(
                GRAY[i].mean() + (PLAIN[i] - GRAY[i].mean()) * f, 0, 1
            ),
        ),
        (
            "saturation",
            lambda i, f: np.clip(
                GRAY[i][..., None] + (PLAIN[i] - GRAY[i][..., None]) * f, 0, 1
            ),
        ),
    ],
)
def test_each_factor_follows_its_formula(name, formula):
    found = looked(**{name: 0.6})
    factors = factors_of(found[:16], formula)
    for i, factor in enumerate(factors):
        np.testing.assert_allclose(found[i], formula(i, factor), atol=2e-3)
    assert factors.min() >= 0.4 - 1e-3 and factors.max() <= 1.6 + 1e-3
    assert np.ptp(factors) > 0.6 and len(set(factors)) > 12


def test_other_keys_give_other_looks():
    jitter = Jitter(0.5, 0.5, 0.5)
    assert np.abs(look_of(jitter, 1) - look_of(jitter, 2)).max() > 0.1
    np.testing.assert_allclose(gray(PLAIN)[..., 0], GRAY, atol=1e-5)


def test_the_step_applies_it_by_its_key():
    losses = {}
    for strength in (0.0, 0.8):
        method = load_method(
            small(colour__brightness=strength, colour__contrast=strength)
        )
        source = method.source("train", (0, 1))
        batch = source.next()
        source.close()
        state = unbox(method.init(jax.random.key(0)))
        step = jax.jit(functools.partial(method.step))
        first, metrics = step(state, batch)
        again = step(state, batch)[1]["loss"]
        later = step(state.replace(step=state.step + 1), batch)[1]["loss"]
        losses[strength] = [float(x) for x in (metrics["loss"], again, later)]
    assert losses[0.8][0] == losses[0.8][1] != losses[0.0][0]
    assert losses[0.8][2] != losses[0.8][0]
    with pytest.raises(ValueError, match="colour.saturation is 2.0; expected 0 to 1"):
        look_of(Jitter(saturation=2.0), 0)
