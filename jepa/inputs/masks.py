"""Block masks of V-JEPA with explicit token budgets, in numpy.

Source: arXiv 2404.08471 section 3.2 and its released generator, which truncates token
lists to the shortest of the batch on a device, so that the batch size is a hidden
hyper-parameter. Here the budgets are config fields, which the presets set to the mean
lengths of those lists, and samples are independent.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from core.section import Section


class Pattern(NamedTuple):
    """One way to hide tokens of a clip; every clip is trained on all patterns.

    Attributes:
      blocks: blocks removed from the clip.
      spatial_scale: (low, high) share of the grid that a block covers.
      context, target: token budgets in cells per time step; a clip with t time steps
        gives context * t context tokens.
      temporal_scale: (low, high) share of the time steps that a block covers.
      aspect: (low, high) height over width, uniform in the ratio.
      temporal_keep: first share of the time steps that the context is limited to; all
        tokens after them are targets.
    """

    blocks: int
    spatial_scale: tuple[float, float]
    context: int
    target: int
    temporal_scale: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (0.75, 1.5)
    temporal_keep: float = 1.0


def make_patterns(patterns: Section) -> tuple[Pattern, ...]:
    """Patterns from config sections by name, in the order of the predictor's mask tokens.

    The order is by name, descending: "short" before "long" as in the released recipes.
    """
    return tuple(
        patterns[name].into(Pattern) for name in sorted(patterns, reverse=True)
    )


def lerp(low_high, u):
    """The number at share `u` of the way from low to high."""
    low, high = low_high
    return low + (high - low) * u


def block_size(pattern: Pattern, grid, rng) -> tuple[int, int, int]:
    """Time steps, rows and columns of a random block; the same for a whole batch."""
    t, h, w = grid
    u1, u2, u3 = rng.random(3)
    steps = max(1, int(t * lerp(pattern.temporal_scale, u1)))
    area = int(h * w * lerp(pattern.spatial_scale, u2))
    ratio = lerp(pattern.aspect, u3)
    rows = min(h, max(1, round((area * ratio) ** 0.5)))
    cols = min(w, max(1, round((area / ratio) ** 0.5)))
    return steps, rows, cols


def draw_masks(pattern: Pattern, grid, size, rng, tries: int = 100):
    """Random (context, target), bool [t, h, w] each: complements, the context not empty.

    size: of a block, as `block_size` returns. Raises ValueError if the blocks cover the
    whole grid `tries` times in a row.
    """
    for _ in range(tries):
        target = np.zeros(grid, bool)
        for _ in range(pattern.blocks):
            start = [rng.integers(n - m + 1) for n, m in zip(grid, size, strict=True)]
            target[tuple(slice(s, s + m) for s, m in zip(start, size, strict=True))] = (
                True
            )
        target[max(1, int(grid[0] * pattern.temporal_keep)) :] = True
        if not target.all():
            return ~target, target
    raise ValueError(
        f"masks: {pattern.blocks} blocks of {size} cover the whole {grid} grid "
        f"{tries} times in a row; lower blocks or spatial_scale"
    )


def fit_budget(chosen, budget: int, truncation: str, rng):
    """Indices of `chosen` tokens [t, h, w]: (ascending int32 [budget], valid [budget]).

    Too few tokens are padded with index 0, marked invalid. Of too many tokens, "prefix"
    keeps the first in raster order as the reference does, which drops late time steps;
    "cells" drops random cells of the h x w grid at all time steps.
    """
    index = np.flatnonzero(chosen)
    if len(index) > budget and truncation == "cells":
        cells = chosen[0].size
        rank = rng.permutation(cells)
        index = index[np.lexsort((index // cells, rank[index % cells]))]
    index = np.sort(index[:budget])
    valid = np.arange(budget) < len(index)
    return np.pad(index, (0, budget - len(index))).astype(np.int32), valid


@dataclasses.dataclass(frozen=True)
class Masker:
    """Adds token indices of all patterns to a sample; a map for the data pipeline.

    The sample gets `context` int32 and `context_valid` bool [sum of context budgets], one
    pattern after another, and `target`, `target_valid` likewise. Block sizes are the same
    for all samples of a global batch, block places differ.

    Attributes:
      grid: tokens along time, row and column. batch: samples of a global batch.
      truncation: "prefix" or "cells", see `fit_budget`.
    """

    patterns: tuple[Pattern, ...]
    grid: tuple[int, int, int]
    batch: int
    seed: int
    truncation: str = "prefix"

    def __post_init__(self):
        t, h, w = self.grid
        if self.truncation not in ("prefix", "cells"):
            raise ValueError(
                f"masks.truncation is {self.truncation!r}; use 'prefix' or 'cells'"
            )
        for name in ("context", "target"):
            for pattern in self.patterns:
                cells = getattr(pattern, name)
                if not 0 < cells <= h * w:
                    raise ValueError(
                        f"masks: {name} is {cells} cells per time step but the "
                        f"{h}x{w} grid has {h * w}; use 1 to {h * w}"
                    )

    def sizes(self, name: str) -> tuple[int, ...]:
        """Token budget of each pattern for `name`, "context" or "target"."""
        return tuple(self.grid[0] * getattr(p, name) for p in self.patterns)

    def __call__(self, item: dict, position: int, rng) -> dict:
        parts = {"context": [], "context_valid": [], "target": [], "target_valid": []}
        step = position // self.batch
        for pattern in self.patterns:
            shared = np.random.default_rng([self.seed, step, 7])
            size = block_size(pattern, self.grid, shared)
            chosen = dict(
                zip(
                    ("context", "target"),
                    draw_masks(pattern, self.grid, size, rng),
                    strict=True,
                )
            )
            for name, cells in chosen.items():
                budget = self.grid[0] * getattr(pattern, name)
                index, valid = fit_budget(cells, budget, self.truncation, rng)
                parts[name].append(index)
                parts[f"{name}_valid"].append(valid)
        return {**item, **{k: np.concatenate(v) for k, v in parts.items()}}
