"""Regression heads and measures against closed forms in plain numpy."""

import numpy as np
import pytest

from core.evals import measures
from core.evals.classification import Options
from core.evals.extract import Features
from core.evals.fit import Grid
from core.evals.measures import difference, measured
from core.evals.regression import inner_products, ridge, score_targets, work_of

RNG = np.random.default_rng(0)
OPTIONS = Options(steps=120, head_batch=32, grid=Grid((2e-2, 1e-6), (0.01,), (0, 1, 2)))


def features(tokens):
    """Features [n, N, D] of clips of one view."""
    return Features(tokens[:, None].astype(np.float16), np.arange(len(tokens)), {})


def planted(n, seed):
    """Tokens [n, 3, 16] whose second token holds x [n, 2], and x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    tokens = 0.05 * rng.standard_normal((n, 3, 16))
    # With a fixed part, the length of x survives the head's layer norm.
    mixing = np.random.default_rng(9).standard_normal((3, 16))
    tokens[:, 1] += 2 * mixing[2] + x @ mixing[:2]
    return features(tokens), x


def test_ridge_is_the_closed_form_of_its_weights():
    """(Z'Z + penalty I)^-1 Z'(y - mean) on the clips whose target is known."""
    train, validation = RNG.standard_normal((30, 3, 4)), RNG.standard_normal((7, 3, 4))
    y = RNG.standard_normal((30, 2))
    y[:5, 1] = np.nan
    parts = features(train), features(validation)
    x, z = (p.tokens.astype(np.float64).reshape(len(p.rows), -1) for p in parts)
    x, z = (x - (mean := x.mean(0))) / (std := x.std(0)), (z - mean) / std
    (found,) = ridge(*inner_products(*parts, mean=False), y, (0.3,))
    for k, rows in ((0, slice(0, 30)), (1, slice(5, 30))):
        a, b = x[rows] - x[rows].mean(0), y[rows, k] - y[rows, k].mean()
        penalty = 0.3 * np.square(a).sum(1).mean()
        weights = np.linalg.solve(a.T @ a + penalty * np.eye(12), a.T @ b)
        wanted = (z - x[rows].mean(0)) @ weights + y[rows, k].mean()
        np.testing.assert_allclose(found[:, k], wanted, atol=1e-10)


def test_constant_features_predict_the_mean():
    parts = [features(np.ones((n, 2, 3))) for n in (10, 4)]
    y = RNG.standard_normal((10, 1))
    (found,) = ridge(*inner_products(*parts, mean=False), y, (1e-3,))
    np.testing.assert_allclose(found, np.full((4, 1), y.mean()), atol=1e-12)


def test_measures_are_as_defined():
    true = RNG.standard_normal((20, 2)) + 100
    guess = true + 0.5 * RNG.standard_normal((20, 2))
    true[3, 0] = np.nan
    times = RNG.integers(0, 3, 20)
    weights = np.stack([np.ones(20), times]).astype(float)
    found = measures.r2(weights, guess, true)
    for w, score in zip((np.ones(20, int), times), found, strict=True):
        wanted = []
        for k in range(2):
            y, p = np.repeat(true[:, k], w), np.repeat(guess[:, k], w)
            p, y = p[np.isfinite(y)], y[np.isfinite(y)]
            error = np.square(y - p).sum()
            wanted.append(1 - error / np.square(y - y.mean()).sum())
        assert score == pytest.approx(np.mean(wanted), rel=1e-9)

    scores, label = RNG.integers(0, 5, 20) / 5, RNG.integers(0, 2, 20)
    found = measures.auc(weights, scores[:, None], label[:, None].astype(float))
    for w, area in zip((np.ones(20, int), times), found, strict=True):
        s, y = np.repeat(scores, w), np.repeat(label, w)
        above = s[y == 1][:, None] - s[y == 0]
        assert area == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())
    assert np.isnan(measures.auc(weights, scores[:, None], np.ones((20, 1)))).all()

    shown = np.eye(3)[RNG.integers(0, 3, 20)]
    guess = RNG.random((20, 3))
    right = guess.argmax(1) == shown.argmax(1)
    found = measures.accuracy(weights, guess, shown)
    np.testing.assert_allclose(found, [right.mean(), np.repeat(right, times).mean()])


def test_intervals_resample_groups():
    """Copies of clips say nothing new: with groups, the interval is that of one copy."""
    y = RNG.standard_normal((60, 1))
    guess = (y + 0.5 * RNG.standard_normal((60, 1)))[None]
    low, high = measures.measured("r2", guess, y)["interval"]
    error = np.square(guess[0] - y).sum() / np.square(y - y.mean()).sum()
    assert low < 1 - error < high
    copies = np.tile(guess, (1, 4, 1)), np.tile(y, (4, 1))
    narrow = measures.measured("r2", *copies)["interval"]
    assert narrow[1] - narrow[0] < 0.7 * (high - low)
    same = measures.measured("r2", *copies, groups=np.tile(np.arange(60), 4))
    assert same["interval"] == pytest.approx([low, high])


@pytest.mark.parametrize("head", ["ridge", "attentive1"])
def test_heads_read_what_tokens_hold(head):
    """Place is in one token; noise is nowhere; a half of the labels is unknown."""
    (train, x), (validation, z) = planted(200, 1), planted(100, 2)
    targets = []
    for place in (x, z):
        some = place[:, :1].copy()
        some[::2] = np.nan
        noise = RNG.standard_normal((len(place), 1))
        sign = (place[:, :1] > 0).astype(float)
        targets.append({"place": place, "some": some, "noise": noise, "sign": sign})
    done = []
    found = score_targets(
        head,
        train,
        validation,
        tuple(targets),
        options=OPTIONS,
        measures={"sign": "auc"},
        progress=done.append,
    )
    assert set(found) == set(targets[0]) and done[-1] == work_of(head, OPTIONS)
    for name in ("place", "some"):
        low, high = found[name]["interval"]
        assert low <= found[name]["r2"] <= high and found[name]["r2"] > 0.9, name
        assert len(found[name]["seeds"]) == 3
    assert found["noise"]["r2"] < 0.1 and found["sign"]["auc"] > 0.98
    if head == "attentive1":  # the rate that learns, not the idle one
        assert found["place"]["rate"] == 2e-2 and found["place"]["spread"][0] < 0.1


def test_settings_are_not_chosen_on_clips_of_the_same_group():
    """Pairs of copies, labels of noise: what is learned by heart fails on other groups."""
    tokens, y = RNG.standard_normal((61, 2, 40)), RNG.standard_normal((61, 1))
    copies = features(np.tile(tokens, (2, 1, 1))), {"y": np.tile(y, (2, 1))}
    other = features(RNG.standard_normal((40, 2, 40)))
    parts = (copies[1], {"y": RNG.standard_normal((40, 1))})

    def penalties(group):
        return score_targets(
            "ridge", copies[0], other, parts, options=OPTIONS, groups=(group, None)
        )["y"]["penalty"]

    # Of 61 rows, every fifth has its copy 61 rows later in another fifth.
    assert max(penalties(np.arange(122))) < 1e-2
    assert min(penalties(np.tile(np.arange(61), 2))) > 0.3


def test_a_target_that_is_known_too_rarely_is_named():
    (train, x), (validation, z) = planted(30, 1), planted(20, 2)
    x[5:] = np.nan
    with pytest.raises(ValueError, match="target fall is known for 5 of 30 clips"):
        score_targets(
            "ridge", train, validation, ({"fall": x}, {"fall": z}), options=OPTIONS
        )


def test_a_difference_is_taken_draw_by_draw():
    """Some groups are hard for both predictions; the gap is known far better than either."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 20)
    true = rng.standard_normal((600, 1))
    noise = rng.standard_normal((600, 1)) * (1 + 3 * (groups % 5 == 0))[:, None]
    first, second = ((true + scale * noise)[None] for scale in (0.3, 0.4))
    alone = [measured("r2", x, true, groups) for x in (first, second)]
    gap = difference("r2", first, second, true, groups)
    np.testing.assert_allclose(gap["r2"], alone[0]["r2"] - alone[1]["r2"])
    low, high = gap["interval"]
    assert 0 < low < gap["r2"] < high
    assert alone[0]["interval"][0] < alone[1]["interval"][1]  # alone they overlap
    none = difference("r2", first, first, true, groups)
    assert none["r2"] == 0 and none["interval"] == [0, 0]
