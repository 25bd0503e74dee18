"""V-JEPA 2.1 encoder and predictor: features of several depths, clips and single images.

Source: arXiv 2603.14482 and the public checkpoints. Beside V-JEPA 2 (jepa/nets/model.py) an
image has a patch embedding of its own, tokens carry a learned vector of their modality,
positions are scaled to one grid, the outputs of several blocks ("levels") are normed one by
one, and the predictor answers for the visible tokens too. Clips and images pass a network
together, so that devices gather its weights once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.nn.layers import Dense, LayerNorm, gelu, named, normalize
from core.nn.token_groups import Tokens
from core.parallel.collectives import constrain
from jepa.nets.model import check_width, positional, run_stack, stack, whole_grid

# Blocks of the levels where they are not equally spaced: the released G, whose third level
# the paper puts at 35.
UNEVEN = {(48, 4): (11, 23, 37, 47)}
IMAGE, VIDEO = 0, 1  # rows of `modality`


def level_blocks(depth: int, levels: int) -> tuple[int, ...]:
    """Blocks, counted from 0, whose outputs are the levels; the last block is one.

    Raises ValueError if there are more levels than blocks, or none.
    """
    if not 0 < levels <= depth:
        raise ValueError(
            f"levels is {levels}, but there are {depth} blocks; use 1 to {depth}"
        )
    even = tuple(depth * (i + 1) // levels - 1 for i in range(levels))
    return UNEVEN.get((depth, levels), even)


class Seen(NamedTuple):
    """An input of DenseEncoder; fields as of its call."""

    patches: jax.Array
    grid: tuple[int, int, int]
    index: jax.Array | None = None
    valid: jax.Array | None = None
    segments: tuple[int, ...] | None = None


class Asked(NamedTuple):
    """An input of DensePredictor; fields as of its call."""

    context: jax.Array
    context_index: jax.Array
    target_index: jax.Array
    grid: tuple[int, int, int]
    use: tuple[int, ...]
    image: bool = False
    context_sizes: tuple[int, ...] = ()
    target_sizes: tuple[int, ...] = ()
    context_valid: jax.Array | None = None
    target_valid: jax.Array | None = None


class LevelNorm(nn.Module):
    """Affine layer norm of each of `levels` equal slices of the channels."""

    levels: int
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, n, levels D] -> the same shape, statistics in float32."""
        slices = x.reshape(*x.shape[:-1], self.levels, -1)
        shape, names = slices.shape[-2:], (None, "embed")
        scale = self.param("scale", named(nn.initializers.ones, names), shape)
        bias = self.param("bias", named(nn.initializers.zeros, names), shape)
        y = normalize(slices, eps=self.eps) * scale + bias
        return y.reshape(x.shape).astype(self.dtype)


class DenseEncoder(nn.Module):
    """Vision transformer over the given patches of a clip or of an image.

    Attributes:
      patch: frames, rows and columns of a tubelet; a patch of an image has one frame.
      levels: how many blocks have a norm of their own at their output.
      rope_grid: rows and columns that positions are scaled to; 16 in the public weights,
        for 256 pixels.
      rescale, remat, attention: see core.nn.transformer.Transformer.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: tuple[int, int, int] = (2, 16, 16)
    levels: int = 4
    rope_grid: int = 16
    positions: str = "paired"
    eps: float = 1e-6
    qkv_bias: bool = True
    rescale: bool = True
    remat: str = "none"
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def patch_of(self, frames: int) -> tuple[int, int, int]:
        """The patch for an input of this many frames: a single one is an image."""
        return (1, *self.patch[1:]) if frames == 1 else self.patch

    @nn.compact
    def __call__(
        self,
        patches,
        index=None,
        *,
        grid,
        valid=None,
        segments=None,
        hierarchy=False,
        beside: Sequence[Seen] = (),
    ) -> Any:
        """Patches [B, n, p] at `index` [B, n] of `grid` -> features [B, n, width].

        index, valid, segments: as for jepa.nets.model.Encoder. The number of values p tells
        patches of images from tubelets. hierarchy: all levels side by side,
        [B, n, levels width], from the first to the last one, which is the output. beside:
        further inputs; the result is then a tuple with one array for each.
        """
        check_width("encoder", self.width, self.heads, self.positions)
        pixels = 3 * self.patch[1] * self.patch[2]
        names = None, "embed"
        embed = Dense(self.width, names, self.dtype, name="embed")
        embed_image = Dense(self.width, names, self.dtype, name="embed_image")
        if self.is_initializing():
            embed(jnp.zeros((1, 1, pixels * self.patch[0])))
            embed_image(jnp.zeros((1, 1, pixels)))
        vectors = modalities(self)

        def tokens(seen: Seen) -> Tokens:
            B, n, p = seen.patches.shape
            index = whole_grid(n, seen.grid) if seen.index is None else seen.index
            assert p in (pixels, pixels * self.patch[0]), (p, self.patch)
            image = p == pixels
            x = embed_image(seen.patches) if image else embed(seen.patches)
            x = x + vectors[IMAGE if image else VIDEO]
            x, rope = at_positions(self, x, index, seen.grid)
            x = constrain(x, "batch", None, None)
            return Tokens(x, rope, seen.valid, seen.segments)

        inputs = (Seen(patches, grid, index, valid, segments), *beside)
        groups = [tokens(seen) for seen in inputs]
        xs = run_stack(
            stack(self, levels=level_blocks(self.depth, self.levels)), groups
        )
        norms = LevelNorm(self.levels, self.eps, self.dtype, name="norms")
        xs = [norms(x) for x in xs]
        xs = xs if hierarchy else [x[..., -self.width :] for x in xs]
        return tuple(xs) if beside else xs[0]


class DensePredictor(nn.Module):
    """Narrow transformer that predicts all levels, of hidden and of visible tokens.

    Attributes:
      features: width of the encoder whose levels are the input.
      out: width of each predicted level: `features`, or that of a distilled one's teacher.
      levels: at input and output; 1 in the public predictors of distilled encoders.
      mask_tokens: how many learned vectors stand for hidden tokens; they start at zero.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    features: int
    out: int
    levels: int = 4
    mask_tokens: int = 1
    rope_grid: int = 16
    positions: str = "paired"
    eps: float = 1e-6
    qkv_bias: bool = True
    rescale: bool = True
    remat: str = "none"
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        context,
        context_index,
        target_index,
        *,
        grid,
        use,
        image=False,
        context_sizes=None,
        target_sizes=None,
        context_valid=None,
        target_valid=None,
        beside: Sequence[Asked] = (),
    ) -> Any:
        """(predictions at hidden tokens, at visible ones): [B, M, O], [B, C, O].

        O is levels out. context: features of the visible tokens, [B, C, levels features].
        image: whether the tokens are patches of images. beside: further inputs; the result
        is then a tuple with one pair for each. The rest is as for jepa.nets.model.Predictor.
        """
        check_width("predictor", self.width, self.heads, self.positions)
        first = Asked(
            context, context_index, target_index, grid, use, image,
            tuple(context_sizes or ()), tuple(target_sizes or ()), context_valid,
            target_valid,
        )  # fmt: skip
        inputs = [with_sizes(asked) for asked in (first, *beside)]
        mix = None
        if self.levels > 1:
            mix = Dense(self.features, ("embed", None), self.dtype, name="mix")
        embed = Dense(self.width, ("embed", None), self.dtype, name="embed")
        mask_tokens = self.param(
            "mask_tokens",
            named(nn.initializers.zeros, (None, "embed")),
            (self.mask_tokens, self.width),
        ).astype(self.dtype)
        vectors = modalities(self)

        def tokens(asked: Asked) -> Tokens:
            B, C, D = asked.context.shape
            assert self.levels * self.features == D, (D, self.levels, self.features)
            assert sum(asked.context_sizes) == C
            assert sum(asked.target_sizes) == asked.target_index.shape[1]
            x = asked.context if mix is None else gelu(mix(asked.context))
            hidden = [
                jnp.broadcast_to(mask_tokens[i], (B, m, self.width))
                for i, m in zip(asked.use, asked.target_sizes, strict=True)
            ]
            x = interleave(cut(embed(x), asked.context_sizes), hidden)
            x = x + vectors[IMAGE if asked.image else VIDEO]

            def of_pairs(contexts, targets):
                return interleave(
                    cut(contexts, asked.context_sizes), cut(targets, asked.target_sizes)
                )

            index = of_pairs(asked.context_index, asked.target_index)
            valid = None
            if asked.context_valid is not None:
                valid = of_pairs(asked.context_valid, asked.target_valid)
            x, rope = at_positions(self, x, index, asked.grid)
            return Tokens(x, rope, valid, tuple(c + m for c, m in pairs_of(asked)))

        xs = run_stack(stack(self), [tokens(asked) for asked in inputs])
        norm = LayerNorm(self.eps, self.dtype, name="norm")
        names, width = (None, "embed"), self.levels * self.out
        guess = Dense(width, names, self.dtype, name="proj")
        visible = Dense(width, names, self.dtype, name="proj_context")
        found = []
        for x, asked in zip(xs, inputs, strict=True):
            parts = cut(norm(x), [n for pair in pairs_of(asked) for n in pair])
            hidden, seen = (jnp.concatenate(parts[i::2], 1) for i in (1, 0))
            found.append((guess(hidden), visible(seen)))
        return tuple(found) if beside else found[0]


def with_sizes(asked: Asked) -> Asked:
    """Sizes of one pattern where there are none."""
    return asked._replace(
        context_sizes=asked.context_sizes or (asked.context.shape[1],),
        target_sizes=asked.target_sizes or (asked.target_index.shape[1],),
    )


def pairs_of(asked: Asked) -> list[tuple[int, int]]:
    """(tokens of the context, hidden tokens) of each pattern."""
    return list(zip(asked.context_sizes, asked.target_sizes, strict=True))


def interleave(contexts, targets) -> jax.Array:
    """Context, then target rows of each pattern, pattern after pattern."""
    return jnp.concatenate(
        [y for pair in zip(contexts, targets, strict=True) for y in pair], 1
    )


def cut(x, sizes) -> list[jax.Array]:
    """The tokens of x in parts of these sizes."""
    return jnp.split(x, np.cumsum(sizes)[:-1], 1)


def at_positions(module, x, index, grid):
    """(tokens with the positions that are added to them, rotary tables or None)."""
    added, rope = positional(
        index, grid, positions=module.positions, width=module.width, heads=module.heads,
        rope_grid=module.rope_grid,
    )  # fmt: skip
    return x if added is None else x + added.astype(x.dtype), rope


def modalities(module):
    """The learned vectors of images and of clips, [2, width] of a module in its dtype."""
    init = named(nn.initializers.normal(1e-6), (None, "embed"))
    return module.param("modality", init, (2, module.width)).astype(module.dtype)
