"""Masks of I-JEPA against the rules of the released generator."""

import numpy as np
import pytest

from jepa.inputs.image_masks import ImageMasker, block_of, draw_context, place

GRID = (1, 16, 16)
MASKER = ImageMasker(GRID, batch=8, seed=3, context=70, target=54)
RNG = np.random.default_rng(0)


def samples(masker, count):
    """(context cells, cells of each target block) of samples, bool [h, w] each."""
    for position in range(count):
        item = masker({"video": 1}, position, np.random.default_rng([9, position]))
        cells = []
        for name in ("context", "target"):
            size = masker.sizes(name)[0]
            blocks = []
            for i in range(masker.blocks):
                here = slice(i * size, (i + 1) * size)
                chosen = np.zeros(masker.grid[1] * masker.grid[2], bool)
                index = item[name][here][item[f"{name}_valid"][here]]
                assert (np.diff(index) > 0).all()
                chosen[index] = True
                blocks.append(chosen.reshape(masker.grid[1:]))
            cells.append(blocks)
        assert all((block == cells[0][0]).all() for block in cells[0])
        yield cells[0][0], cells[1]


def box(cells):
    """(top, left, rows, columns) of a block, which is full."""
    rows, cols = (np.flatnonzero(cells.any(axis)) for axis in (1, 0))
    assert cells.sum() == len(rows) * len(cols)
    return rows[0], cols[0], len(rows), len(cols)


def test_one_number_sets_area_and_aspect():
    """At its ends: area .15 and .2 of 256 cells, height over width .75 and 1.5."""
    assert block_of((16, 16), (0.15, 0.2), (0.75, 1.5), 0.0) == (5, 7)  # 38 cells
    assert block_of((16, 16), (0.15, 0.2), (0.75, 1.5), 1.0) == (9, 6)  # 51 cells
    assert block_of((16, 16), (0.85, 1.0), (1.0, 1.0), 1.0) == (
        15,
        15,
    )  # below the grid
    assert block_of((16, 16), (0.85, 1.0), (1.0, 1.0), 0.0) == (15, 15)
    assert block_of((28, 28), (0.85, 1.0), (1.0, 1.0), 0.0) == (26, 26)


def test_blocks_never_reach_the_last_row_and_column():
    seen = sum(place((6, 7), (3, 2), RNG).astype(int) for _ in range(3000))
    assert (seen[-1] == 0).all() and (seen[:, -1] == 0).all()
    assert (seen[:-1, :-1] > 0).all()
    tops = {box(place((6, 7), (3, 2), RNG))[:2] for _ in range(500)}
    assert tops == {(i, j) for i in range(3) for j in range(5)}


def test_targets_are_blocks_of_one_size_per_batch_and_the_context_avoids_them():
    sizes = {}
    for position, (context, targets) in enumerate(samples(MASKER, 64)):
        union = np.any(targets, 0)
        assert not (context & union).any()
        assert 10 < context.sum() <= MASKER.context
        boxes = [box(target) for target in targets]
        sizes.setdefault(position // 8, set()).update(found[2:] for found in boxes)
        assert len({found[:2] for found in boxes}) > 1
    assert all(len(found) == 1 for found in sizes.values())
    assert len({found.pop() for found in sizes.values()}) > 3


def test_context_is_cut_in_raster_order_to_its_budget():
    whole = ImageMasker(GRID, 8, 3, context=256, target=54)
    for (cut, _), (context, _) in zip(
        samples(MASKER, 16), samples(whole, 16), strict=True
    ):
        index = np.flatnonzero(context)
        np.testing.assert_array_equal(np.flatnonzero(cut), index[: MASKER.context])


def test_budget_of_the_preset_is_the_mean_shortest_list_of_128_images():
    shortest = []
    whole = ImageMasker(GRID, 128, 0, context=256, target=54)
    for step in range(8):
        rows = [
            whole({}, 128 * step + i, RNG)["context_valid"][:256] for i in range(128)
        ]
        shortest.append(min(row.sum() for row in rows))
    assert abs(np.mean(shortest) - MASKER.context) < 12


def test_a_context_that_is_too_small_gives_up_targets_from_the_last():
    grid, least = (6, 6), 10
    left = np.zeros(grid, bool)
    left[:5, :3] = True
    right = np.zeros(grid, bool)
    right[:5, 3:5] = True
    context = draw_context(grid, (5, 5), [right, left], least, RNG)
    assert not (context & right).any() and (context & left).sum() == 15
    context = draw_context(grid, (5, 5), [left, right], least, RNG)
    assert context.sum() == 25  # 10 cells beside `left` are not enough
    with pytest.raises(ValueError, match="has 25; use 24 or less"):
        draw_context(grid, (5, 5), [], 25, RNG)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target": 53}, "masks.target is 53 tokens but target blocks have up to 54"),
        ({"context": 0}, "masks.context is 0 tokens but the 16x16 grid has 256"),
        ({"grid": (1, 1, 4)}, "the grid has 1x4 patches; blocks need 2 or more"),
    ],
)
def test_impossible_masks_are_refused(fields, words):
    known = {"grid": GRID, "batch": 8, "seed": 0, "context": 70, "target": 54}
    with pytest.raises(ValueError, match=words):
        ImageMasker(**known | fields)
