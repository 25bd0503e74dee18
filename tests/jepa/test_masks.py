"""Block masks: properties of every sample, and the published statistics."""

import numpy as np
import pytest

from configs.jepa import get_config
from core.section import Section
from jepa.inputs.masks import (
    Masker,
    Pattern,
    block_size,
    draw_masks,
    fit_budget,
    make_patterns,
)

GRID = (8, 16, 16)
CELLS = 256
SHORT = {"blocks": 8, "spatial_scale": (0.15, 0.15)}
LONG = {"blocks": 2, "spatial_scale": (0.7, 0.7)}
ALL = {"context": CELLS, "target": CELLS}  # budgets that truncate nothing
BOTH = pytest.mark.parametrize("kind", [SHORT, LONG])


def masker(*patterns, batch=4, truncation="prefix", grid=GRID, seed=5):
    return Masker(patterns, grid, batch, seed, truncation)


def draw(make, position):
    """Masks of one sample, with the generator that its position has."""
    rng = np.random.default_rng([11, position])
    return make({"label": position}, position=position, rng=rng)


def sets(item):
    """Valid tokens of an item with one pattern, by kind."""
    return {k: item[k][item[f"{k}_valid"]] for k in ("context", "target")}


@BOTH
def test_untruncated_masks_partition_the_grid(kind):
    for position in range(30):
        parts = sets(draw(masker(Pattern(**kind, **ALL)), position))
        both = np.concatenate([parts["context"], parts["target"]])
        assert sorted(both) == list(range(8 * CELLS))


@BOTH
def test_blocks_last_the_whole_clip(kind):
    for position in range(10):
        parts = sets(draw(masker(Pattern(**kind, **ALL)), position))
        for index in parts.values():
            steps = np.zeros((8, CELLS), bool)
            steps.flat[index] = True
            assert (steps == steps[0]).all() and steps.any()


@pytest.mark.parametrize("truncation", ["prefix", "cells"])
@BOTH
def test_indices_are_valid_ascending_and_padding_is_marked(kind, truncation):
    make = masker(Pattern(**kind, context=64, target=200), truncation=truncation)
    padded = 0
    for position in range(30):
        item = draw(make, position)
        assert item["label"] == position
        for name, cells in (("context", 64), ("target", 200)):
            index, valid = item[name], item[f"{name}_valid"]
            assert index.shape == valid.shape == (8 * cells,)
            assert index.dtype == np.int32 and valid.dtype == bool
            count = valid.sum()
            assert count and valid[:count].all()
            assert (np.diff(index[:count]) > 0).all() and (index[count:] == 0).all()
            assert 0 <= index.min() and index.max() < 8 * CELLS
            padded += int(count < len(valid))
        assert not set(sets(item)["context"]) & set(sets(item)["target"])
    assert padded


def test_budgets_truncate_by_their_rule():
    rng = np.random.default_rng(0)
    chosen = np.zeros(GRID, bool)
    chosen[:, :8, :10] = True  # 80 cells, always
    every = np.flatnonzero(chosen)
    index, valid = fit_budget(chosen, 8 * 50, "prefix", rng)
    assert valid.all() and (index == every[: 8 * 50]).all()
    assert index.max() // CELLS == 4, "the latest time steps are dropped"
    index, valid = fit_budget(chosen, 8 * 50, "cells", rng)
    kept = np.zeros((8, CELLS), bool)
    kept.flat[index] = True
    assert valid.all() and (kept == kept[0]).all() and kept[0].sum() == 50
    assert set(index) <= set(every)
    other, _ = fit_budget(chosen, 8 * 50, "cells", rng)
    assert set(other) != set(index), "which cells go is random"
    for rule in ("prefix", "cells"):
        index, valid = fit_budget(chosen, 8 * 100, rule, rng)
        assert valid.sum() == 8 * 80 and (index[: 8 * 80] == every).all()


def area(item):
    """Rows and columns that the target of a one-block pattern covers."""
    cells = np.zeros(CELLS, bool)
    cells[sets(item)["target"] % CELLS] = True
    cells = cells.reshape(16, 16)
    return cells.any(1).sum(), cells.any(0).sum()


def test_block_size_is_common_to_a_batch_and_places_are_not():
    make = masker(Pattern(blocks=1, spatial_scale=(0.1, 0.4), **ALL), batch=16)
    sizes, places = [], []
    for step in range(12):
        items = [draw(make, 16 * step + i) for i in range(16)]
        (size,) = {area(item) for item in items}
        sizes.append(size)
        places.append(len({tuple(sets(item)["target"]) for item in items}))
    assert len(set(sizes)) > 6 and min(places) > 8


def test_block_size_is_common_to_patterns():
    kind = {"blocks": 1, "spatial_scale": (0.1, 0.4)}
    budgets = ALL, {"context": CELLS - 1, "target": CELLS - 2}
    for step in range(5):
        item = draw(masker(*(Pattern(**kind, **b) for b in budgets)), 4 * step)
        ends = {"context": [8 * CELLS], "target": [8 * CELLS]}
        ends |= {f"{name}_valid": end for name, end in ends.items()}
        one, two = (
            {k: np.split(item[k], end)[i] for k, end in ends.items()} for i in (0, 1)
        )
        assert area(one) == area(two)
        assert set(sets(one)["target"]) != set(sets(two)["target"])


@pytest.mark.parametrize(
    ("grid", "scale", "expected"),
    [
        ((8, 14, 14), 0.15, 29), ((8, 14, 14), 0.7, 137), ((8, 16, 16), 0.15, 38),
        ((8, 16, 16), 0.7, 179), ((8, 24, 24), 0.15, 86), ((8, 24, 24), 0.7, 403),
        ((8, 32, 32), 0.15, 153), ((8, 32, 32), 0.7, 716),
    ],
)  # fmt: skip
def test_block_sizes_follow_the_published_base_areas(grid, scale, expected):
    """Released areas in cells; sides are roundings of sqrt(area * or / aspect)."""
    pattern = Pattern(1, (scale, scale), 1, 1)
    for seed in range(50):
        u = np.random.default_rng(seed).random(3)[2]
        ratio = 0.75 + 0.75 * u
        steps, rows, cols = block_size(pattern, grid, np.random.default_rng(seed))
        assert steps == 8
        assert rows == min(grid[1], round(np.sqrt(expected * ratio)))
        assert cols == min(grid[2], round(np.sqrt(expected / ratio)))


@BOTH
def test_a_sample_is_a_function_of_its_position(kind):
    pattern = Pattern(**kind, context=64, target=120)
    for truncation in ("prefix", "cells"):
        make = masker(pattern, truncation=truncation)
        there = [draw(make, p) for p in range(8)]
        back = [draw(make, p) for p in reversed(range(8))][::-1]
        for one, two in zip(there, back, strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], two[name])
        assert any((there[0][k] != there[1][k]).any() for k in ("context", "target"))


def test_short_blocks_in_time_and_late_context():
    pattern = Pattern(2, (0.3, 0.3), **ALL, temporal_scale=(0.5, 0.5))
    counts = []
    for position in range(20):
        index = sets(draw(masker(pattern), position))["target"]
        counts.append(len(np.unique(index // CELLS)))
    assert 4 in counts and max(counts) <= 8 and min(counts) == 4
    late = Pattern(**SHORT, **ALL, temporal_keep=0.5)
    for position in range(5):
        parts = sets(draw(masker(late), position))
        assert parts["context"].max() // CELLS == 3
        # As in the released generator, what is no context is a target.
        both = np.concatenate([parts["context"], parts["target"]])
        assert sorted(both) == list(range(8 * CELLS))


def kept(kind, grid, samples, seed):
    """Cells of context and of target of `samples` samples that share one block size."""
    rng = np.random.default_rng(seed)
    pattern = Pattern(**kind, **ALL)
    size = block_size(pattern, (1, *grid[1:]), rng)
    masks = [draw_masks(pattern, (1, *grid[1:]), size, rng) for _ in range(samples)]
    return np.array([[m.sum() for m in pair] for pair in masks]) / (grid[1] * grid[2])


# vjepa.md 7.2: mean share of cells in the context before truncation and its 5-95 % range;
# mean shares of context and of target after truncation to the shortest of 24 samples.
@pytest.mark.parametrize(
    ("kind", "mean", "low", "high", "after"),
    [
        (SHORT, 0.38, 0.26, 0.51, (0.244, 0.476)),
        (LONG, 0.19, 0.06, 0.30, (0.064, 0.701)),
    ],
)
def test_statistics_are_those_of_the_reference(kind, mean, low, high, after):
    batches = np.stack([kept(kind, GRID, 24, seed) for seed in range(1000)])
    context = batches[..., 0]
    assert abs(context.mean() - mean) < 0.006
    assert abs(np.percentile(context, 5) - low) < 0.006
    assert abs(np.percentile(context, 95) - high) < 0.006
    np.testing.assert_allclose(batches.sum(-1), 1)
    cut_to = batches.min(1).mean(0)
    np.testing.assert_allclose(cut_to, after, atol=0.004)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (Pattern(**SHORT, context=257, target=1), "context is 257 cells.*use 1 to 256"),
        (Pattern(**SHORT, context=1, target=0), "target is 0 cells.*use 1 to 256"),
    ],
)
def test_budgets_outside_the_grid_are_refused(pattern, words):
    with pytest.raises(ValueError, match=words):
        masker(pattern)


def test_what_cannot_be_masked_is_refused():
    with pytest.raises(ValueError, match="use 'prefix' or 'cells'"):
        masker(Pattern(**SHORT, **ALL), truncation="suffix")
    full = masker(Pattern(1, (1.0, 1.0), **ALL, aspect=(1.0, 1.0)))
    with pytest.raises(ValueError, match="cover the whole"):
        draw(full, 0)


def released_lengths(pattern, side: int, *, clips: int, batches: int):
    """Cells (context, target) that the released sampler keeps, [batches, 2].

    Written from its source, which counts tokens per batch of a device: one aspect ratio,
    blocks anywhere on the grid, empty contexts drawn again, lists cut to the shortest.
    """
    rng, cell, kept = np.random.default_rng(3), np.arange(side), []
    area = int(side * side * pattern["spatial_scale"][0])
    for _ in range(batches):
        aspect = 0.75 + 0.75 * rng.random()
        high = min(side, round((area * aspect) ** 0.5))
        wide = min(side, round((area / aspect) ** 0.5))
        context = np.zeros(0, int)
        while len(context) < clips:
            shape = clips - len(context), pattern["blocks"], 1
            top = rng.integers(0, side - high + 1, shape)
            left = rng.integers(0, side - wide + 1, shape)
            rows = (top <= cell) & (cell < top + high)
            cols = (left <= cell) & (cell < left + wide)
            hits = np.swapaxes(rows, 1, 2).astype(np.float32) @ cols.astype(np.float32)
            found = (hits == 0).sum((1, 2))
            context = np.concatenate([context, found[found > 0]])
        kept.append((context.min(), side**2 - context.max()))
    return np.array(kept)


# The released recipes by grid, and their clips per device.
RELEASED = {
    (14, 24): ["v1_l", "v1_h"],
    (16, 24): ["v2_l", "v2_h", "v2_g", "v2_G"],
    (16, 12): ["v2_l_cooldown", "v2_h_cooldown"],
    (16, 6): ["v2_g_cooldown"],
    (24, 10): ["v1_h384"],
    (24, 6): ["v2_g384_cooldown"],
}


@pytest.mark.parametrize(("side", "clips"), RELEASED)
def test_budgets_are_the_mean_lengths_of_the_released_sampler(side, clips):
    patterns = [get_config(p).masks.patterns.to_dict() for p in RELEASED[side, clips]]
    first = patterns[0]
    assert all(pattern == first for pattern in patterns)
    for pattern in first.values():
        kept = released_lengths(pattern, side, clips=clips, batches=800)
        budgets = pattern["context"], pattern["target"]
        error = kept.std(0) / len(kept) ** 0.5
        gap = np.abs(kept.mean(0) - budgets)
        assert (gap < 0.5 + 3 * error).all(), (budgets, kept.mean(0), error)


@pytest.mark.parametrize("preset", ["v1_l", "v2_l", "v2_g384_cooldown"])
def test_published_budgets_are_nearly_full(preset):
    """Both patterns go through the networks in one pass; little of it is padding."""
    config = get_config(preset).to_dict()
    side = config["data"]["size"] // 16
    patterns = make_patterns(Section(config["masks"]["patterns"]))
    truncation = config["masks"]["truncation"]
    # One time step, because blocks last the whole clip.
    make = masker(*patterns, grid=(1, side, side), truncation=truncation, batch=1)
    found = [make({}, i, np.random.default_rng(i)) for i in range(1000)]
    for name in ("context_valid", "target_valid"):
        assert np.mean([item[name] for item in found]) > 0.98
