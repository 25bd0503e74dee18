"""LeVJEPA's encoder and projector: pure functions of (params, tokens, token indices).

Source: arXiv 2608.27395. A vision transformer over any subset of a clip's tokens, with one
learned token beside them that reads the whole clip, and a small head on that token.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from core.nn.layers import Dense, LayerNorm, gelu, named
from core.nn.masks import FULL, block_causal
from core.parallel.collectives import constrain
from jepa.nets.batch_norm import batch_moments, normalize_by
from jepa.nets.model import check_width, positional, stack


class ViewEncoder(nn.Module):
    """Vision transformer over the given tokens of a clip, and a learned summary token.

    Attributes:
      patch: frames, rows and columns of a token; one frame in the published recipe.
      causal: tokens see those of their own and of earlier time steps, and only the summary
        token, which none of them sees, sees the whole clip. Tokens must then be as many
        from every time step, in order.
      positions, rescale, remat, attention: as of jepa.nets.model.Encoder.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: tuple[int, int, int] = (1, 16, 16)
    causal: bool = False
    positions: str = "tiled"
    eps: float = 1e-6
    qkv_bias: bool = True
    rescale: bool = True
    remat: str = "none"
    attention: str = "plain"
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def patch_of(self, frames: int) -> tuple[int, int, int]:
        """The patch for an input of any number of frames."""
        return self.patch

    @nn.compact
    def __call__(self, patches, index=None, *, grid, summary=False):
        """Patches [B, n, p] at `index` [B, n] of `grid` -> features [B, n, width].

        index: flat, ascending; the whole grid if None. summary: return the features of the
        summary token alone, [B, width].
        """
        check_width("encoder", self.width, self.heads, self.positions)
        B, n, _ = patches.shape
        if index is None:
            assert n == np.prod(grid), (n, grid)
            index = jnp.arange(n)[None]
        x = Dense(self.width, (None, "embed"), self.dtype, name="embed")(patches)
        init = named(nn.initializers.truncated_normal(0.02), (None, "embed"))
        token = self.param("summary", init, (1, self.width)).astype(self.dtype)
        # The last token, so that it comes after all time steps of a causal mask. Position 0
        # does not rotate it, as in the published encoder.
        end = jnp.zeros((len(index), 1), index.dtype)
        added, rope = positional(
            jnp.concatenate([index, end], 1), grid, positions=self.positions,
            width=self.width, heads=self.heads,
        )  # fmt: skip
        if added is not None:
            x = x + added[:, :n].astype(x.dtype)
        token = jnp.broadcast_to(token, (B, 1, self.width))
        x = constrain(jnp.concatenate([x, token], 1), "batch", None, None)
        if self.causal:
            assert n % grid[0] == 0, (n, grid)
        x = stack(self, mask=block_causal(n // grid[0]) if self.causal else FULL)(
            x, rope, last=1 if summary else None
        )
        x = LayerNorm(self.eps, self.dtype, name="norm")(x)
        return x[:, -1] if summary else x[:, :n]


class Projector(nn.Module):
    """Linear, batch norm, GELU, linear: from summary tokens to embeddings.

    The norm takes mean and variance of the views of all clips of a step, on all devices
    together. There are no running averages: the projector is of use in training alone.
    """

    hidden: int = 2048
    out: int = 256
    eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, V, D] -> float32 [B, V, out]."""
        x = Dense(self.hidden, ("embed", None), self.dtype, name="up")(x)
        shape = x.shape[-1:]
        scale = self.param("scale", named(nn.initializers.ones, (None,)), shape)
        bias = self.param("bias", named(nn.initializers.zeros, (None,)), shape)
        x = normalize_by(x, batch_moments(x), eps=self.eps) * scale + bias
        x = gelu(x.astype(self.dtype))
        x = Dense(self.out, (None, "embed"), self.dtype, name="down")(x)
        return x.astype(jnp.float32)
