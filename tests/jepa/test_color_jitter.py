"""Color jitter against formulas in numpy: one factor per clip, the same in all frames."""

import jax
import numpy as np
import pytest
from small import drawn_state, small

from core.config import load_method
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
    np.testing.assert_allclose(gray(np.moveaxis(PLAIN, -1, 0)), GRAY, atol=1e-5)


def test_the_step_applies_it_by_its_key():
    def losses(strength, *steps):
        """The loss of one batch and one set of weights at each of these steps."""
        fields = {"colour__brightness": strength, "colour__contrast": strength}
        method = load_method(small(**fields))
        source = method.source("train", (0, 1))
        batch = source.next()
        source.close()
        state = drawn_state(method)
        # The loss alone, so that neither gradients nor the update are compiled.
        loss = jax.jit(lambda state: method.step(state, batch)[1]["loss"])
        return [float(loss(state.replace(step=np.int32(step)))) for step in steps]

    (plain,), (first, again, later) = losses(0.0, 0), losses(0.8, 0, 0, 1)
    assert first == again != plain
    assert later != first
    with pytest.raises(ValueError, match="colour.saturation is 2.0; expected 0 to 1"):
        look_of(Jitter(saturation=2.0), 0)
