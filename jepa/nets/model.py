"""V-JEPA encoder and predictor: pure functions of (params, tokens, token indices).

Sources: arXiv 2404.08471 (V-JEPA, sincos positions) and 2506.09985 (V-JEPA 2, 3D RoPE).
A token index is flat in raster order over the grid (time, row, column).
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.nn.layers import Dense, LayerNorm, named
from core.nn.masks import FULL, Mask
from core.nn.positions import rope_tables, sincos, sincos2d
from core.nn.token_groups import Tokens
from core.nn.transformer import Transformer
from core.parallel.collectives import constrain

# width, depth, heads, hidden
SIZES = {
    "mini": (64, 4, 2, 256),
    "tiny": (128, 4, 4, 512),
    "T": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
    "g": (1408, 40, 22, 6144),
    "G": (1664, 48, 26, 8192),
}

ADDED = {"sincos": sincos, "sincos2d": sincos2d}  # positions added at the input
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def encoder_size(size: str) -> dict:
    """Keyword arguments of the Encoder for a published size."""
    if size not in SIZES:
        raise ValueError(f"encoder size {size!r} is unknown; use one of {list(SIZES)}")
    return dict(zip(("width", "depth", "heads", "hidden"), SIZES[size], strict=True))


def grid_of(shape, patch) -> tuple[int, int, int]:
    """Tokens along time, row, column of a clip [..., T, H, W, C], no remainders."""
    grid = tuple(n // p for n, p in zip(shape[-4:-1], patch, strict=True))
    return (max(1, grid[0]), *grid[1:])


def patchify(video, patch):
    """Split clips into tubelets of `patch`: [B, T, H, W, C] -> [B, t h w, pt ph pw C].

    Fewer frames than a tubelet are repeated to fill one.
    """
    pt, ph, pw = patch
    if video.shape[1] < pt:
        video = jnp.tile(video, (1, pt, 1, 1, 1))[:, :pt]
    B, C = video.shape[0], video.shape[-1]
    t, h, w = grid_of(video.shape, patch)
    x = video[:, : t * pt, : h * ph, : w * pw].reshape(B, t, pt, h, ph, w, pw, C)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(B, t * h * w, pt * ph * pw * C)


def standardize(patches):
    """uint8 tubelets -> float32 with the ImageNet mean and deviation per channel."""
    x = patches.reshape(*patches.shape[:-1], -1, 3).astype(jnp.float32) / 255
    return ((x - MEAN) / STD).reshape(patches.shape)


def coordinates(index, grid):
    """Flat token indices [...] -> (time, row, column) [..., 3]."""
    _, h, w = grid
    return jnp.stack([index // (h * w), index // w % h, index % w], -1)


def positional(index, grid, *, positions, width, heads, rope_grid=0):
    """(added features [..., width], None) for "sincos" and "sincos2d", else (None, RoPE).

    index: flat token indices of `grid`. rope_grid: rows and columns that those of `grid`
    are scaled to, so that the last one has the position rope_grid - 1; 0 scales nothing.
    """
    where = np.stack(np.unravel_index(np.arange(math.prod(grid)), grid), -1)
    if rope_grid:
        last = np.maximum(np.array(grid) - 1, 1)
        where = where * np.where([False, True, True], (rope_grid - 1) / last, 1)
    if positions in ADDED:
        return jnp.asarray(ADDED[positions](where, width))[index], None
    # Rows of tables of the grid, which has far fewer angles than the batch has tokens.
    tables = rope_tables(where[None], head_dim=width // heads, variant=positions)
    return None, tuple(jnp.asarray(table[0])[index] for table in tables)


def check_width(kind, width, heads, positions):
    """Raise ValueError for widths that positions cannot work with; kind: config section."""
    if positions not in ("tiled", "paired", *ADDED):
        raise ValueError(
            f"{kind}.positions is {positions!r}; use 'tiled', 'paired', 'sincos' or "
            "'sincos2d'"
        )
    if positions == "sincos2d" and width % 4:
        raise ValueError(f"{kind}.width is {width}; 'sincos2d' needs a multiple of 4")
    if width % heads:
        raise ValueError(f"{kind}.width {width} does not divide into {heads} heads")
    if positions not in ADDED and (width // heads < 12 or width // heads % 2):
        raise ValueError(
            f"{kind} heads are {width // heads} wide; rotary positions need 12 or "
            "more, an even number"
        )


def stack(module, *, mask: Mask = FULL, levels: tuple[int, ...] = ()) -> Transformer:
    """The blocks of a network, "stack", from its attributes of the same names.

    mask, levels: as of core.nn.transformer.Transformer.
    """
    return Transformer(
        module.depth,
        module.heads,
        module.hidden,
        module.eps,
        module.dtype,
        module.qkv_bias,
        module.rescale,
        module.remat,
        module.attention,
        mask=mask,
        levels=levels,
        name="stack",
    )


def whole_grid(n: int, grid: tuple[int, int, int]) -> jax.Array:
    """The index [1, n] of all n tokens of a grid, in order."""
    assert n == np.prod(grid), (n, grid)
    return jnp.arange(n)[None]


def run_stack(blocks: Transformer, groups: Sequence[Tokens]) -> list[jax.Array]:
    """Outputs of a network's blocks for each group.

    One group alone can initialize the blocks; its mask must be theirs.
    """
    if len(groups) > 1:
        return blocks.together(groups)
    x, rope, valid, segments, _, mask, last = groups[0]
    assert mask in (None, blocks.mask), (mask, blocks.mask)
    return [blocks(x, rope, valid, segments, last=last)]


def together(network, params, inputs: Sequence, **options) -> tuple:
    """What a network returns for each of `inputs`, in one pass.

    network: one whose call has the argument `beside`. inputs: NamedTuples of its other
    arguments. options: arguments that are equal for all inputs.
    """
    first, *beside = inputs
    given = first._asdict() | options | {"beside": tuple(beside)}
    found = network.apply({"params": params}, **given)
    return found if beside else (found,)


class Encoder(nn.Module):
    """Vision transformer over the given tubelets of a clip.

    Attributes:
      patch: frames, rows and columns of a tubelet.
      positions: "tiled" or "paired" RoPE in every block, or "sincos" at the input, or
        "sincos2d", of rows and columns alone.
      rescale, remat, attention: see core.nn.transformer.Transformer.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: tuple[int, int, int] = (2, 16, 16)
    positions: str = "tiled"
    eps: float = 1e-6
    qkv_bias: bool = True
    rescale: bool = True
    remat: str = "none"
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def patch_of(self, frames: int) -> tuple[int, int, int]:
        """The patch for an input of any number of frames; a single one is repeated."""
        return self.patch

    @nn.compact
    def __call__(self, patches, index=None, *, grid, valid=None, segments=None):
        """Tubelets [B, n, p] at `index` [B, n] of `grid` -> features [B, n, width].

        index: flat; the whole grid in order if None. valid: bool [B, n], False for
        padding. segments: lengths of groups of tokens that attend only to themselves, one
        per mask pattern.
        """
        check_width("encoder", self.width, self.heads, self.positions)
        B, n, _ = patches.shape
        index = whole_grid(n, grid) if index is None else index
        x = Dense(self.width, (None, "embed"), self.dtype, name="embed")(patches)
        added, rope = positional(
            index, grid, positions=self.positions, width=self.width, heads=self.heads
        )
        if added is not None:
            x = x + added.astype(x.dtype)
        x = constrain(x, "batch", None, None)
        x = stack(self)(x, rope, valid, segments)
        return LayerNorm(self.eps, self.dtype, name="norm")(x)


def start_at(std: float):
    """An initializer of normal values of this deviation; zeros for 0."""
    return nn.initializers.normal(std) if std else nn.initializers.zeros


class Predictor(nn.Module):
    """Narrow transformer that predicts features of hidden tokens from the context's.

    Attributes:
      out: width of the encoder whose features are predicted.
      mask_tokens: how many learned vectors stand for hidden tokens; mask_std: deviation
        that they start with.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    out: int
    mask_tokens: int = 1
    mask_std: float = 0.0
    positions: str = "tiled"
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
        context_sizes=None,
        target_sizes=None,
        context_valid=None,
        target_valid=None,
    ):
        """Context features [B, C, D] and indices -> predictions [B, M, out] at targets.

        use: number of the mask token of each pattern. context_sizes, target_sizes: tokens
        per pattern, whose sums are C and M; one pattern if None. context_valid [B, C] and
        target_valid [B, M] are False for padding.
        """
        check_width("predictor", self.width, self.heads, self.positions)
        B, C, _ = context.shape
        M = target_index.shape[1]
        context_sizes = tuple(context_sizes or (C,))
        target_sizes = tuple(target_sizes or (M,))
        assert sum(context_sizes) == C and sum(target_sizes) == M
        assert len(use) == len(context_sizes) == len(target_sizes)
        x = Dense(self.width, ("embed", None), self.dtype, name="embed")(context)
        tokens = self.param(
            "mask_tokens",
            named(start_at(self.mask_std), (None, "embed")),
            (self.mask_tokens, self.width),
        ).astype(self.dtype)
        hidden = [
            jnp.broadcast_to(tokens[i], (B, m, self.width))
            for i, m in zip(use, target_sizes, strict=True)
        ]

        def interleave(contexts, targets):
            """Context, then target rows of each pattern, pattern after pattern."""
            contexts = jnp.split(contexts, np.cumsum(context_sizes)[:-1], 1)
            return jnp.concatenate(
                [y for p in zip(contexts, targets, strict=True) for y in p], 1
            )

        def per_pattern(y):
            return jnp.split(y, np.cumsum(target_sizes)[:-1], 1)

        x = interleave(x, hidden)
        index = interleave(context_index, per_pattern(target_index))
        valid = None
        if context_valid is not None:
            valid = interleave(context_valid, per_pattern(target_valid))
        added, rope = positional(
            index, grid, positions=self.positions, width=self.width, heads=self.heads
        )
        if added is not None:
            x = x + added.astype(x.dtype)
        pairs = list(zip(context_sizes, target_sizes, strict=True))
        x = stack(self)(x, rope, valid, tuple(c + m for c, m in pairs))
        ends = np.cumsum([n for pair in pairs for n in pair])[:-1]
        x = jnp.concatenate(jnp.split(x, ends, 1)[1::2], 1)
        x = LayerNorm(self.eps, self.dtype, name="norm")(x)
        return Dense(self.out, (None, "embed"), self.dtype, name="proj")(x)
