"""Predictors of DINO-WM: patches of the next frame from patches, proprioception and actions.

Both are causal over frames. The one of DINO-WM (arXiv 2411.04983) has action and
proprioception as further channels of every patch; that of JEPA-WM (2512.24497) modulates its
blocks by the action (AdaLN) and has rotary positions.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from core.nn import row_keys
from core.nn.cache import Cache
from core.nn.layers import Dense, LayerNorm, named
from core.nn.masks import block_causal
from core.nn.positions import rope_tables
from core.nn.transformer import Transformer
from jepa.worlds.ac_model import step_positions
from jepa.worlds.dropout_blocks import SCALED, PreNormBlock


class Embedding(nn.Module):
    """A linear map of actions or of states: [..., A] -> [..., width]."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Float32, of normalized numbers."""
        names = (None, "embed")
        layer = Dense(self.width, names, self.dtype, init=SCALED, name="linear")
        return layer(x).astype(jnp.float32)


class FeaturePredictor(nn.Module):
    """Transformer as wide as [patch, proprioception, action], with learned positions.

    Attributes:
      out: width of a patch. depth, heads, head_dim, hidden: of the blocks.
      history: most frames. dropout: share of attention weights, outputs and hidden units set
        to zero in training.
      attention: one of core/nn/kernels.py, where nothing is dropped.
    """

    out: int
    depth: int = 6
    heads: int = 16
    head_dim: int = 64
    hidden: int = 2048
    history: int = 3
    dropout: float = 0.1
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features, proprio, actions, keys=None, *, grid, views=1):
        """(patches [B, T, N, out], proprioception [B, T, N, P]) of the frames after each.

        Args:
          features: [B, T, N, out], T up to `history`. proprio: embedded, [B, T, N, P]; P
            may be 0. actions: embedded, [B, T, C], taken after each frame.
          keys: of the rows, [B], for dropout; None drops nothing.
          grid, views: as of AdaLNPredictor; not read.
        """
        B, T, N, D = features.shape
        assert T <= self.history and self.out == D, (T, features.shape)
        spread = jnp.broadcast_to(actions[:, :, None], (B, T, N, actions.shape[-1]))
        x = jnp.concatenate([features, proprio, spread], -1)
        W = x.shape[-1]
        init = named(nn.initializers.normal(1.0), (None, None, "embed"))
        places = self.param("positions", init, (self.history, N, W))
        x = (x + places[:T]).astype(self.dtype).reshape(B, T * N, W)
        for i in range(self.depth):
            now = None if keys is None else row_keys.fold(keys, i)
            x = PreNormBlock(
                self.heads,
                self.head_dim,
                self.hidden,
                self.dropout,
                N,
                self.attention,
                self.dtype,
                name=f"block{i}",
            )(x, now)
        x = LayerNorm(1e-5, jnp.float32, name="norm")(x).reshape(B, T, N, W)
        return x[..., :D], x[..., D : D + proprio.shape[-1]]


class AdaLNPredictor(nn.Module):
    """Transformer whose blocks are modulated by the action of their frame (AdaLN-zero).

    At initialization the modulation is zero, so that actions have no effect yet; the released
    code also has this variant, but draws its kernel with a deviation of 0.2 by default.

    Attributes:
      out: width of a patch. width: of an embedded patch, beside which proprioception has
        channels of its own. depth, heads, head_dim, hidden: of the blocks.
      rope_grid: rows and columns of patches in training.
      positions: "tiled" or "paired" RoPE. rescale, remat, attention: see
        core.nn.transformer.Transformer.
    """

    out: int
    width: int = 384
    depth: int = 6
    heads: int = 16
    head_dim: int = 24
    hidden: int = 1600
    rope_grid: int = 16
    positions: str = "tiled"
    rescale: bool = True
    remat: str = "none"
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    dropout = 0.0

    @nn.compact
    def __call__(
        self,
        features,
        proprio,
        actions,
        keys=None,
        *,
        grid,
        views=1,
        cache=None,
        first=0,
    ):
        """As of FeaturePredictor, but for any T.

        grid: (rows, columns) of a view. views: cameras, whose patches follow one another.
        keys: not read. cache: of `first` earlier frames, as of `make_cache`; the result is
        then followed by the cache with these.
        """
        B, T, N, D = features.shape
        assert N == views * int(np.prod(grid)) and self.out == D, (features.shape, grid)
        names = ("embed", None)
        x = Dense(self.width, names, self.dtype, name="embed")(features)
        if views > 1:
            table = named(nn.initializers.normal(0.02), (None, "embed"))
            table = self.param("views", table, (views, self.width))
            x += jnp.repeat(table, N // views, 0).astype(self.dtype)
        x = jnp.concatenate([x, proprio.astype(self.dtype)], -1)
        where = step_positions(first + T, grid, self.rope_grid, views, conditions=0)
        where = where[first * N :]
        rope = rope_tables(where[None], head_dim=self.head_dim, variant=self.positions)
        x, moves = x.reshape(B, T * N, -1), actions.astype(self.dtype)
        if cache is None:
            x = self.blocks(N)(x, rope, condition=moves)
        else:
            x, cache = self.blocks(N).extend(x, cache, rope, moves)
        x = LayerNorm(1e-6, jnp.float32, name="norm")(x).reshape(B, T, N, -1)
        last = Dense(self.out, (None, "embed"), self.dtype, name="proj")
        guess = last(x[..., : self.width]).astype(jnp.float32)
        found = guess, x[..., self.width :]
        return found if cache is None else (*found, cache)

    @nn.nowrap
    def blocks(self, N: int) -> Transformer:
        """The transformer over frames of N patches."""
        return Transformer(
            self.depth,
            self.heads,
            self.hidden,
            dtype=self.dtype,
            rescale=self.rescale,
            remat=self.remat,
            attention=self.attention,
            head_dim=self.head_dim,
            mask=block_causal(N),
            name="stack",
        )

    @nn.nowrap
    def make_cache(self, batch: int, frames: int, N: int, proprio: int) -> Cache:
        """An empty cache of keys and values of `frames` frames of N patches.

        proprio: width of the embedded proprioception.
        """
        width = self.width + proprio
        return self.blocks(N).make_cache(batch, frames * N, width)
