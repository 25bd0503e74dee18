"""V-JEPA 2-AC: predicts the features of the next frame from frames, actions and states.

Source: arXiv 2506.09985, section 3, and the public checkpoint.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from core.nn.cache import Cache
from core.nn.layers import Dense, LayerNorm, named
from core.nn.masks import block_causal
from core.nn.positions import rope_tables
from core.nn.transformer import Transformer
from jepa.nets.model import check_width, stack

CONDITIONS = 2  # tokens of a time step before its patches: action, state


def step_positions(
    steps: int,
    grid: tuple[int, int],
    rope_grid: int,
    views: int = 1,
    conditions: int = CONDITIONS,
) -> np.ndarray:
    """(time, row, column) of all tokens: [steps (conditions + views rows columns), 3].

    Conditions, such as action and state, have the time of their step alone: at row and
    column 0 the channels of rows and columns are not rotated. All views have the same rows
    and columns. rope_grid: rows and columns of the frames in training; those of `grid` are
    scaled by rope_grid over their number.
    """
    rows, columns = grid
    where = np.stack(np.unravel_index(np.arange(rows * columns), grid), -1)
    patches = np.tile(where * (rope_grid / np.array(grid)), (views, 1))
    places = np.concatenate([np.zeros((conditions, 2)), patches])
    time = np.repeat(np.arange(steps), len(places))
    return np.concatenate([time[:, None], np.tile(places, (steps, 1))], 1)


class ActionPredictor(nn.Module):
    """Transformer over [action, state, patches] of each time step, causal over the steps.

    Attributes:
      out: width of the frozen encoder's features, which come in and are predicted.
      embodiments: (name, values of an action, values of a state) of each kind of robot;
        each has linear maps of its own.
      views: cameras, whose patches follow one another; with more than one, each has a
        learnt vector that is added to its patches.
      rope_grid: rows and columns of patches in training; 16 in the public weights.
      rescale, remat, attention: see core.nn.transformer.Transformer.
    """

    out: int = 1408
    width: int = 1024
    depth: int = 24
    heads: int = 16
    hidden: int = 4096
    embodiments: tuple[tuple[str, int, int], ...] = (("droid", 7, 7),)
    views: int = 1
    rope_grid: int = 16
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
        features,
        actions,
        states,
        *,
        grid,
        embodiment="droid",
        cache=None,
        first=0,
    ):
        """Features of the next frame, predicted at each step: [B, T, N, out].

        Step t sees everything of the steps up to t. N is views rows columns. With a cache of
        `first` earlier steps, as of `make_cache`, it is (features, the cache with these).

        Args:
          features: of frames, [B, T, N, out], normalized without scale or shift.
          actions: [B, T, A], taken after the frame. states: [B, T, S], at the frame.
          grid: (rows, columns). embodiment: the name of those in `embodiments`.

        Raises ValueError for an embodiment or widths that are not there.
        """
        check_width("predictor", self.width, self.heads, self.positions)
        B, T, N, D = features.shape
        cells = int(np.prod(grid))
        assert N == self.views * cells and self.out == D, (features.shape, grid, self)
        given = {"actions": actions, "states": states}
        check_embodiment(self.embodiments, embodiment, given)
        names = ("embed", None)
        maps = {
            (name, kind): Dense(self.width, names, self.dtype, name=f"{kind}_{name}")
            for name, *_ in self.embodiments
            for kind in ("action", "state")
        }
        if self.is_initializing():
            for name, *widths in self.embodiments:
                for kind, width in zip(("action", "state"), widths, strict=True):
                    maps[name, kind](jnp.zeros((1, 1, width)))
        patches = Dense(self.width, names, self.dtype, name="embed")(features)
        if self.views > 1:
            view = named(nn.initializers.normal(0.02), (None, "embed"))
            views = self.param("views", view, (self.views, self.width))
            patches += jnp.repeat(views, cells, 0).astype(self.dtype)
        tokens = [
            maps[embodiment, "action"](actions)[:, :, None],
            maps[embodiment, "state"](states)[:, :, None],
            patches,
        ]
        x = jnp.concatenate(tokens, 2).reshape(B, T * (CONDITIONS + N), self.width)
        where = step_positions(first + T, grid, self.rope_grid, self.views)
        where = where[first * (CONDITIONS + N) :]
        head_dim = self.width // self.heads
        rope = rope_tables(where[None], head_dim=head_dim, variant=self.positions)
        blocks = self.blocks(N)
        if cache is None:
            x = blocks(x, rope)
        else:
            x, cache = blocks.extend(x, cache, rope)
        x = x.reshape(B, T, CONDITIONS + N, self.width)[:, :, CONDITIONS:]
        x = LayerNorm(self.eps, self.dtype, name="norm")(x)
        y = Dense(self.out, (None, "embed"), self.dtype, name="proj")(x)
        return y if cache is None else (y, cache)

    @nn.nowrap
    def blocks(self, N: int) -> Transformer:
        """The transformer over steps of N patches."""
        return stack(self, mask=block_causal(CONDITIONS + N))

    @nn.nowrap
    def make_cache(self, batch: int, steps: int, N: int) -> Cache:
        """An empty cache of keys and values of `steps` steps of N patches."""
        tokens = steps * (CONDITIONS + N)
        return self.blocks(N).make_cache(batch, tokens, self.width)


def check_embodiment(embodiments, name: str, given: dict) -> None:
    """Raise ValueError if `name` is not among them or its arrays have other widths.

    given: {"actions": [B, T, A], "states": [B, T, S]}.
    """
    widths = {known: sizes for known, *sizes in embodiments}
    if name not in widths:
        raise ValueError(f"embodiment is {name!r}; use one of {', '.join(widths)}")
    for (what, x), width in zip(given.items(), widths[name], strict=True):
        if x.shape[-1] != width:
            raise ValueError(
                f"{what} have {x.shape[-1]} values, expected the {width} of embodiment "
                f"{name!r}"
            )
