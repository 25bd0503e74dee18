"""Networks of LeWorldModel: image encoders, projectors with batch norm, causal predictor.

arXiv 2603.19312. Of these networks only the vision transformer is split over the mesh axis
`tensor`; the others are small. Batch norm is a pure function: its statistics come
in and go out, and the weights hold only its scale and shift.
"""

import flax.linen as nn
import jax.numpy as jnp

from core.nn import row_keys
from core.nn.convolutions import strided
from core.nn.layers import Dense, LayerNorm, gelu, named
from core.nn.transformer import Transformer
from jepa.nets.batch_norm import Moments, batch_moments, normalize_by
from jepa.nets.model import patchify, standardize
from jepa.worlds.dropout_blocks import SCALED, ModulatedBlock, modulation


class Projector(nn.Module):
    """Linear, batch norm, GELU, linear: [..., W] -> [..., out]."""

    hidden: int
    out: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, running: Moments | None = None):
        """(outputs float32, what batch norm was given [..., hidden]).

        running: statistics to normalize with; None takes those of the rows of x.
        """
        y = Dense(self.hidden, ("embed", None), self.dtype, init=SCALED, name="up")(x)
        moments = batch_moments(y) if running is None else running
        shape = (self.hidden,)
        scale = self.param("scale", named(nn.initializers.ones, (None,)), shape)
        bias = self.param("bias", named(nn.initializers.zeros, (None,)), shape)
        z = normalize_by(y, moments, eps=1e-5)
        z = gelu((z * scale + bias).astype(self.dtype))
        down = Dense(self.out, (None, "embed"), self.dtype, init=SCALED, name="down")
        return down(z).astype(jnp.float32), y


class ImageTransformer(nn.Module):
    """Vision transformer on single images; its output is that of the class token.

    Learned positions, layer norm with epsilon 1e-12 and the exact GELU, as the ViT of
    transformers. attention, remat: see core.nn.transformer.Transformer.
    """

    patch: int = 14
    width: int = 192
    depth: int = 12
    heads: int = 3
    hidden: int = 768
    eps: float = 1e-12
    attention: str = "plain"
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    def check(self, size: int) -> None:
        """Raise ValueError for images that do not divide into patches."""
        if size % self.patch or size < self.patch:
            low = max(self.patch, size // self.patch * self.patch)
            raise ValueError(
                f"data.size {size} does not divide into patches of {self.patch}; use "
                f"{low} or {low + self.patch}"
            )

    @nn.compact
    def __call__(self, images):
        """uint8 [N, H, W, 3] -> [N, width]."""
        patches = standardize(patchify(images[:, None], (1, self.patch, self.patch)))
        normal = nn.initializers.normal(0.02)
        x = Dense(self.width, (None, "embed"), self.dtype, name="embed")(patches)
        N, M, W = x.shape
        cls = self.param("cls", named(normal, (None, None, "embed")), (1, 1, W))
        places = named(normal, (None, None, "embed"))
        places = self.param("positions", places, (1, M + 1, W))
        x = jnp.concatenate([jnp.broadcast_to(cls, (N, 1, W)).astype(x.dtype), x], 1)
        x = Transformer(
            self.depth,
            self.heads,
            self.hidden,
            self.eps,
            self.dtype,
            rescale=False,
            remat=self.remat,
            attention=self.attention,
            name="stack",
        )(x + places.astype(x.dtype))
        return LayerNorm(self.eps, self.dtype, name="norm")(x[:, 0])


class ImageConvolutions(nn.Module):
    """A linear map of patches, then convolutions that halve, for small images; then flat.

    channels: of the patches, and of each convolution.
    """

    patch: int = 4
    channels: tuple[int, ...] = (32, 32)
    kernel: int = 3
    dtype: jnp.dtype = jnp.float32

    def check(self, size: int) -> None:
        """Raise ValueError for images that do not divide into patches and halves."""
        ways = self.patch * 2 ** (len(self.channels) - 1)
        if not self.channels or size % ways:
            raise ValueError(
                f"data.size {size} does not divide into patches of {self.patch} that are "
                f"halved once per entry of encoder.channels but the first; use a multiple "
                f"of {ways}"
            )

    @nn.compact
    def __call__(self, images):
        """uint8 [N, H, W, 3] -> [N, features]."""
        N, H, W, _ = images.shape
        first, *rest = self.channels
        x = standardize(patchify(images[:, None], (1, self.patch, self.patch)))
        names = (None, None)
        x = gelu(Dense(first, names, self.dtype, init=SCALED, name="embed")(x))
        x = x.reshape(N, H // self.patch, W // self.patch, first)
        init = named(SCALED, (None, None, None, None))
        zeros = named(nn.initializers.zeros, (None,))
        for i, width in enumerate(rest):
            shape = (self.kernel, self.kernel, x.shape[-1], width)
            kernel = self.param(f"kernel{i}", init, shape).astype(self.dtype)
            bias = self.param(f"bias{i}", zeros, (width,)).astype(self.dtype)
            x = gelu(strided(x, kernel) + bias)
        return x.reshape(N, -1)


class ActionEncoder(nn.Module):
    """Embedding of a block of actions: linear to `smooth`, then an MLP with SiLU."""

    out: int
    smooth: int = 10
    hidden: int = 768
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, actions):
        """Normalized blocks [..., skip A] -> [..., out]."""
        names = {
            "smooth": (self.smooth, (None, None)),
            "up": (self.hidden, (None, "embed")),
            "down": (self.out, ("embed", None)),
        }
        layers = {
            name: Dense(width, axes, self.dtype, init=SCALED, name=name)
            for name, (width, axes) in names.items()
        }
        x = layers["up"](layers["smooth"](actions.astype(self.dtype)))
        return layers["down"](nn.silu(x))


class Predictor(nn.Module):
    """Causal transformer over latents; each step is modulated by its action (AdaLN-zero).

    It predicts the features of the next step at every step. At initialization the
    modulation is zero, so that actions have no effect yet.

    Attributes:
      width, depth, heads, head_dim, hidden: of the blocks. history: most steps.
      dropout: share of attention weights, outputs and hidden units set to zero in training.
    """

    width: int
    depth: int = 6
    heads: int = 16
    head_dim: int = 64
    hidden: int = 2048
    history: int = 3
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, latents, actions, keys=None, *, vectors=None):
        """[B, T, D], embedded actions [B, T, C] -> [B, T, width], T up to `history`.

        keys: of the rows, [B], for dropout; None drops nothing. vectors: the output of
        `modulations`; actions are not read then, and only the last step is returned,
        [B, 1, width].
        """
        T, D = latents.shape[1:]
        assert T <= self.history, (T, self.history)
        init = named(nn.initializers.normal(1.0), (None, "embed"))
        places = self.param("positions", init, (self.history, D))
        x = (latents + places[:T]).astype(self.dtype)
        if self.width != D:
            names = (None, "embed")
            x = Dense(self.width, names, self.dtype, init=SCALED, name="embed")(x)
        for i in range(self.depth):
            now = None if keys is None else row_keys.fold(keys, i)
            x = ModulatedBlock(
                self.heads,
                self.head_dim,
                self.hidden,
                self.dropout,
                dtype=self.dtype,
                name=f"block{i}",
            )(
                x,
                actions,
                now,
                vectors=None if vectors is None else vectors[i],
                last=vectors is not None and i == self.depth - 1,
            )
        return LayerNorm(1e-5, self.dtype, name="norm")(x)

    @nn.nowrap
    def modulations(self, params, actions):
        """Of every block by embedded actions [..., C]: a list of arrays [..., 6 width]."""
        layer, y = modulation(self.width, self.dtype), nn.silu(actions)
        weights = [params[f"block{i}"]["modulation"] for i in range(self.depth)]
        return [layer.apply({"params": w}, y) for w in weights]
