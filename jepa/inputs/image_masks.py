"""Masks of I-JEPA: four target blocks and one context block per image, in numpy.

Source: arXiv 2301.08243 section 3 and its released generator. As in jepa/inputs/masks.py, token
budgets are explicit where the release truncates to the shortest list of a device's batch.
"""

import dataclasses
import math

import numpy as np

from jepa.inputs.masks import fit_budget, lerp

Range = tuple[float, float]
FAILURES = 20  # draws of a context that is too small before one target less is cut out


def block_of(grid: tuple[int, int], scale: Range, aspect: Range, u: float):
    """(rows, columns) of a block; one uniform number sets its area and its aspect.

    Both are below the size of the grid, as in the released generator.
    """
    h, w = grid
    area, ratio = int(h * w * lerp(scale, u)), lerp(aspect, u)
    rows, cols = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(max(rows, 1), h - 1), min(max(cols, 1), w - 1)


def place(grid: tuple[int, int], size: tuple[int, int], rng) -> np.ndarray:
    """A block at a random place, bool [h, w]; it never reaches the last row and column."""
    top, left = (int(rng.integers(n - m)) for n, m in zip(grid, size, strict=True))
    found = np.zeros(grid, bool)
    found[top : top + size[0], left : left + size[1]] = True
    return found


def draw_context(grid, size, targets, least: int, rng) -> np.ndarray:
    """A context block without the cells of the targets, with more than `least` cells.

    After FAILURES draws without success the last target is no longer cut out, then the one
    before it. Raises ValueError where even a whole block is too small.
    """
    for kept in range(len(targets), -1, -1):
        for _ in range(FAILURES):
            context = place(grid, size, rng)
            for target in targets[:kept]:
                context &= ~target
            if context.sum() > least:
                return context
    raise ValueError(
        f"masks.least is {least}, but a context block of {size} cells has "
        f"{size[0] * size[1]}; use {size[0] * size[1] - 1} or less"
    )


@dataclasses.dataclass(frozen=True)
class ImageMasker:
    """Adds token indices of context and target blocks to a sample; a map for the pipeline.

    The sample gets `target` int32 and `target_valid` bool [blocks target], one block after
    another, and `context`, `context_valid` [blocks context], the same context once per
    block. Block sizes are the same for all samples of a global batch.

    Attributes:
      grid: tokens along time (one), row and column. batch: samples of a global batch.
      context, target: token budgets of the context and of each target block. Longer lists
        are cut in raster order, as in the release.
      blocks: target blocks. target_scale, target_aspect, context_scale, context_aspect:
        area as a share of the grid, and height over width.
      least: cells that a context must exceed before it is cut to its budget.
    """

    grid: tuple[int, int, int]
    batch: int
    seed: int
    context: int
    target: int
    blocks: int = 4
    target_scale: Range = (0.15, 0.2)
    target_aspect: Range = (0.75, 1.5)
    context_scale: Range = (0.85, 1.0)
    context_aspect: Range = (1.0, 1.0)
    least: int = 10

    def __post_init__(self):
        _, h, w = self.grid
        if min(h, w) < 2:
            raise ValueError(
                f"masks: the grid has {h}x{w} patches; blocks need 2 or more per side"
            )
        if not 0 < self.context <= h * w:
            raise ValueError(
                f"masks.context is {self.context} tokens but the {h}x{w} grid has {h * w}; "
                f"use 1 to {h * w}"
            )
        sizes = [self.sizes_at(u)[0] for u in np.linspace(0, 1, 101)]
        largest = max(rows * cols for rows, cols in sizes)
        if self.target < largest:
            raise ValueError(
                f"masks.target is {self.target} tokens but target blocks have up to "
                f"{largest} on the {h}x{w} grid; use {largest}"
            )

    @property
    def patterns(self) -> range:
        """One for each target block."""
        return range(self.blocks)

    def sizes(self, name: str) -> tuple[int, ...]:
        """Token budget of each block for `name`, "context" or "target"."""
        return (getattr(self, name),) * self.blocks

    def sizes_at(self, u: float, v: float = 0.0):
        """(rows, columns) of target blocks and of the context block, of two uniforms."""
        plane = self.grid[1:]
        return (
            block_of(plane, self.target_scale, self.target_aspect, u),
            block_of(plane, self.context_scale, self.context_aspect, v),
        )

    def __call__(self, item: dict, position: int, rng) -> dict:
        shared = np.random.default_rng([self.seed, position // self.batch, 7])
        target_size, context_size = self.sizes_at(*shared.random(2))
        plane = self.grid[1:]
        targets = [place(plane, target_size, rng) for _ in range(self.blocks)]
        context = draw_context(plane, context_size, targets, self.least, rng)

        def fit(cells, budget):
            return fit_budget(cells[None], budget, "prefix", rng)

        seen = [fit(context, self.context)] * self.blocks
        hidden = [fit(cells, self.target) for cells in targets]
        found = {}
        for name, parts in (("context", seen), ("target", hidden)):
            index, valid = zip(*parts, strict=True)
            found[name] = np.concatenate(index)
            found[f"{name}_valid"] = np.concatenate(valid)
        return {**item, **found}
