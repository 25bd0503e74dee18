"""LeVJEPA's encoder and projector: pure functions of (params, tokens, token indices).

Source: arXiv 2608.27395. A vision transformer over any subset of a clip's tokens, with one
learned token beside them that reads the whole clip, and a small head on that token.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from core.nn.layers import Dense, LayerNorm, gelu, named
from core.nn.masks import FULL, block_causal
from core.nn.token_groups import Tokens
from core.parallel.collectives import constrain
from jepa.nets.batch_norm import batch_moments, normalize_by
from jepa.nets.model import check_width, positional, run_stack, stack, whole_grid


class View(NamedTuple):
    """An input of ViewEncoder; fields as of its call."""

    patches: jax.Array
    grid: tuple[int, int, int]
    index: jax.Array | None = None


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
    def __call__(
        self, patches, index=None, *, grid, summary=False, beside: Sequence[View] = ()
    ) -> Any:
        """Patches [B, n, p] at `index` [B, n] of `grid` -> features [B, n, width].

        index: flat, ascending; the whole grid if None. summary: return the features of the
        summary token alone, [B, width]. beside: further inputs, whose number of rows may
        differ; the result is then a tuple with one array for each.
        """
        check_width("encoder", self.width, self.heads, self.positions)
        embed = Dense(self.width, (None, "embed"), self.dtype, name="embed")
        init = named(nn.initializers.truncated_normal(0.02), (None, "embed"))
        token = self.param("summary", init, (1, self.width)).astype(self.dtype)

        def tokens(view: View) -> Tokens:
            B, n, _ = view.patches.shape
            index = whole_grid(n, view.grid) if view.index is None else view.index
            x = embed(view.patches)
            # The last token, so that it comes after all time steps of a causal mask.
            # Position 0 does not rotate it, as in the published encoder.
            end = jnp.zeros((len(index), 1), index.dtype)
            added, rope = positional(
                jnp.concatenate([index, end], 1), view.grid, positions=self.positions,
                width=self.width, heads=self.heads,
            )  # fmt: skip
            if added is not None:
                x = x + added[:, :n].astype(x.dtype)
            last = jnp.broadcast_to(token, (B, 1, self.width))
            x = constrain(jnp.concatenate([x, last], 1), "batch", None, None)
            assert not self.causal or n % view.grid[0] == 0, (n, view.grid)
            mask = block_causal(n // view.grid[0]) if self.causal else FULL
            return Tokens(x, rope, mask=mask, last=1 if summary else None)

        groups = [tokens(view) for view in (View(patches, grid, index), *beside)]
        norm = LayerNorm(self.eps, self.dtype, name="norm")
        blocks = stack(self, mask=groups[0].mask or FULL)
        xs = [norm(x) for x in run_stack(blocks, groups)]
        xs = [x[:, -1] if summary else x[:, :-1] for x in xs]
        return tuple(xs) if beside else xs[0]


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
