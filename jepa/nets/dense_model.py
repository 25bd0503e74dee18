"""V-JEPA 2.1 encoder and predictor: features of several depths, clips and single images.

Source: arXiv 2603.14482 and the public checkpoints. Beside V-JEPA 2 (jepa/nets/model.py) an
image has a patch embedding of its own, tokens carry a learned vector of their modality,
positions are scaled to one grid, the outputs of several blocks ("levels") are normed one by
one, and the predictor answers for the visible tokens too.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from core.nn.layers import Dense, LayerNorm, gelu, named, normalize
from core.parallel.collectives import constrain
from jepa.nets.model import check_width, positional, stack

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
        self, patches, index=None, *, grid, valid=None, segments=None, hierarchy=False
    ):
        """Patches [B, n, p] at `index` [B, n] of `grid` -> features [B, n, width].

        index, valid, segments: as for jepa.nets.model.Encoder. The number of values p tells
        patches of images from tubelets. hierarchy: all levels side by side,
        [B, n, levels width], from the first to the last one, which is the output.
        """
        check_width("encoder", self.width, self.heads, self.positions)
        B, n, p = patches.shape
        if index is None:
            assert n == np.prod(grid), (n, grid)
            index = jnp.arange(n)[None]
        pixels = 3 * self.patch[1] * self.patch[2]
        assert p in (pixels, pixels * self.patch[0]), (p, self.patch)
        names = None, "embed"
        embed = Dense(self.width, names, self.dtype, name="embed")
        embed_image = Dense(self.width, names, self.dtype, name="embed_image")
        if self.is_initializing():
            embed(jnp.zeros((1, 1, pixels * self.patch[0])))
            embed_image(jnp.zeros((1, 1, pixels)))
        image = p == pixels
        x = embed_image(patches) if image else embed(patches)
        x = x + modality(self, IMAGE if image else VIDEO)
        added, rope = positional(
            index, grid, positions=self.positions, width=self.width, heads=self.heads,
            rope_grid=self.rope_grid,
        )  # fmt: skip
        if added is not None:
            x = x + added.astype(x.dtype)
        x = constrain(x, "batch", None, None)
        x = stack(self, levels=level_blocks(self.depth, self.levels))(
            x, rope, valid, segments
        )
        x = LevelNorm(self.levels, self.eps, self.dtype, name="norms")(x)
        return x if hierarchy else x[..., -self.width :]


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
    ):
        """(predictions at hidden tokens, at visible ones): [B, M, O], [B, C, O].

        O is levels out. context: features of the visible tokens, [B, C, levels features].
        image: whether the tokens are patches of images. The rest is as for
        jepa.nets.model.Predictor.
        """
        check_width("predictor", self.width, self.heads, self.positions)
        B, C, D = context.shape
        M = target_index.shape[1]
        assert self.levels * self.features == D, (D, self.levels, self.features)
        context_sizes = tuple(context_sizes or (C,))
        target_sizes = tuple(target_sizes or (M,))
        assert sum(context_sizes) == C and sum(target_sizes) == M
        x = context
        if self.levels > 1:
            mix = Dense(self.features, ("embed", None), self.dtype, name="mix")
            x = gelu(mix(x))
        x = Dense(self.width, ("embed", None), self.dtype, name="embed")(x)
        tokens = self.param(
            "mask_tokens",
            named(nn.initializers.zeros, (None, "embed")),
            (self.mask_tokens, self.width),
        ).astype(self.dtype)
        hidden = [
            jnp.broadcast_to(tokens[i], (B, m, self.width))
            for i, m in zip(use, target_sizes, strict=True)
        ]

        def interleave(contexts, targets):
            """Context, then target rows of each pattern, pattern after pattern."""
            return jnp.concatenate(
                [y for p in zip(contexts, targets, strict=True) for y in p], 1
            )

        def cut(x, sizes):
            return jnp.split(x, np.cumsum(sizes)[:-1], 1)

        x = interleave(cut(x, context_sizes), hidden)
        x = x + modality(self, IMAGE if image else VIDEO)
        index = interleave(
            cut(context_index, context_sizes), cut(target_index, target_sizes)
        )
        valid = None
        if context_valid is not None:
            valid = interleave(
                cut(context_valid, context_sizes), cut(target_valid, target_sizes)
            )
        added, rope = positional(
            index, grid, positions=self.positions, width=self.width, heads=self.heads,
            rope_grid=self.rope_grid,
        )  # fmt: skip
        if added is not None:
            x = x + added.astype(x.dtype)
        pairs = list(zip(context_sizes, target_sizes, strict=True))
        x = stack(self)(x, rope, valid, tuple(c + m for c, m in pairs))
        x = LayerNorm(self.eps, self.dtype, name="norm")(x)
        parts = cut(x, [n for pair in pairs for n in pair])
        names, width = (None, "embed"), self.levels * self.out
        guess = Dense(width, names, self.dtype, name="proj")
        visible = Dense(width, names, self.dtype, name="proj_context")
        return (
            guess(jnp.concatenate(parts[1::2], 1)),
            visible(jnp.concatenate(parts[::2], 1)),
        )


def modality(module, row: int):
    """The learned vector of images or of clips, [width] of a module in its own dtype."""
    init = named(nn.initializers.normal(1e-6), (None, "embed"))
    vectors = module.param("modality", init, (2, module.width))
    return vectors[row].astype(module.dtype)
