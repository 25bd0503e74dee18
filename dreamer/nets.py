"""Encoder and decoder of named observations: images, vectors, or both.

arXiv 2301.04104, appendix. The public code has had two forms of the image networks:
"stride" (April 2024: stride 2 and transposed convolutions, an outer layer at full
resolution) and "pool" (2026: stride 1 with max-pooling and nearest upsampling).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from core.agents.spaces import Space
from core.nn import convolutions
from core.nn.distributions import symexp, symlog
from core.nn.layers import Dense, named
from core.parallel.collectives import constrain
from dreamer.layers import BLOCKS, Mlp, NormAct, fan_in, product

CHANNELS = {"pool": (2, 3, 4, 4), "stride": (1, 2, 3, 4, 4)}
KERNEL = 5
FEW = 8  # input channels up to which `conv_pool` is faster


def one_hot(x, classes):
    """Integers [..., n] -> [..., n classes]; all zeros if any is -1, which means missing."""
    y = jax.nn.one_hot(x, classes).reshape(*x.shape[:-1], -1)
    return y * (x >= 0).all(-1, keepdims=True)


def as_vector(x, space: Space):
    """One observation [B, ...] as a vector [B, space.width]: symlog, or one-hot.

    Zeros if a number is not finite.
    """
    x = x.reshape(x.shape[0], -1)
    if space.is_discrete:
        return one_hot(x, space.classes)
    known = jnp.isfinite(x).all(-1, keepdims=True)
    return jnp.where(known, symlog(jnp.where(known, x, 0.0)), 0.0)


class Conv(nn.Module):
    """5x5 convolution with bias, [B, h, w, c] -> [B, h', w', features]; how: in FORMS."""

    features: int
    how: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        shape = KERNEL, KERNEL, x.shape[-1], self.features
        kernel = self.param("kernel", named(fan_in(), (None, None, None, None)), shape)
        bias = self.param("bias", named(nn.initializers.zeros, (None,)), shape[-1:])
        return FORMS[self.how](x.astype(self.dtype), kernel.astype(self.dtype)) + (
            bias.astype(self.dtype)
        )


def halve(x, kernel):
    """Convolution and max-pooling by 2."""
    if x.shape[-1] <= FEW:
        return convolutions.conv_pool(x, kernel)
    return convolutions.pool(convolutions.conv(x, kernel))


FORMS = {
    "plain": convolutions.conv,
    "pool": halve,
    "up": convolutions.upsample_conv,
    "stride": convolutions.strided,
    "unstride": convolutions.conv_transpose,
}


class Encoder(nn.Module):
    """Observations [B, ...] by name -> one embedding [B, E]."""

    spaces: tuple[tuple[str, Space], ...]
    depth: int
    width: int
    form: str = "pool"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, obs):
        vectors = [as_vector(obs[k], s) for k, s in self.spaces if not s.is_image]
        images = [obs[k] for k, s in self.spaces if s.is_image]
        parts = []
        if vectors:
            y = jnp.concatenate(vectors, -1)
            parts.append(Mlp(3, self.width, self.dtype, name="vector")(y))
        if images:
            x = jnp.concatenate(images, -1).astype(self.dtype) / 255 - 0.5
            for i, many in enumerate(CHANNELS[self.form]):
                outer = self.form == "stride" and i == 0
                how = "plain" if outer else self.form
                x = Conv(many * self.depth, how, self.dtype, name=f"conv{i}")(x)
                x = NormAct(name=f"norm{i}")(x)
            parts.append(x.reshape(x.shape[0], -1))
        return constrain(jnp.concatenate(parts, -1), "batch", None)


class Decoder(nn.Module):
    """State (deter [B, D], stoch [B, S C]) -> predicted observations [B, ...] by name.

    Images in 0..1, reals as symlog, integers as logits [B, ..., classes].
    """

    spaces: tuple[tuple[str, Space], ...]
    depth: int
    width: int
    blocks: int
    form: str = "pool"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, deter, stoch):
        deter, stoch = deter.astype(self.dtype), stoch.astype(self.dtype)
        vectors = [(k, s) for k, s in self.spaces if not s.is_image]
        images = [(k, s) for k, s in self.spaces if s.is_image]
        out = {}
        if vectors:
            y = jnp.concatenate([stoch, deter], -1)
            y = Mlp(3, self.width, self.dtype, name="vector")(y)
            for name, space in vectors:
                last = Dense(
                    space.width, ("mlp", None), self.dtype, init=fan_in(), name=name
                )
                shape = space.shape + ((space.classes,) if space.is_discrete else ())
                out[name] = last(y).reshape(-1, *shape).astype(jnp.float32)
        if images:
            x = self.picture(deter, stoch, images)
            sizes = [s.shape[-1] for _, s in images]
            ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
            for (name, _), one in zip(images, jnp.split(x, ends, -1), strict=True):
                out[name] = one
        return out

    def picture(self, deter, stoch, images):
        """All images, concatenated in channels: float32 [B, H, W, channels] in 0..1."""
        first, *more = CHANNELS[self.form][::-1]
        size = images[0][1].shape[0] // 2 ** (len(more) + (self.form == "pool"))
        shape = (size, size, first * self.depth)
        G, each = self.blocks, first * self.depth // self.blocks
        kernel = (G, deter.shape[-1] // G, size * size * each)
        kernel = self.param(
            "deter_kernel", named(fan_in(), (BLOCKS, None, None)), kernel
        )
        bias = self.param(
            "deter_bias",
            named(nn.initializers.zeros, (None,)),
            (G * size * size * each,),
        )
        x = product(deter, kernel.astype(self.dtype))
        x = (x + bias.astype(self.dtype)).reshape(-1, G, size, size, each)
        x = x.transpose(0, 2, 3, 1, 4).reshape(-1, *shape)
        y = Dense(
            2 * self.width, ("embed", "mlp"), self.dtype, init=fan_in(), name="stoch0"
        )
        y = NormAct("mlp", name="stoch_norm")(y(stoch))
        last = Dense(
            size * size * shape[-1],
            ("mlp", None),
            self.dtype,
            init=fan_in(),
            name="stoch1",
        )
        x = NormAct(name="norm_in")(x + last(y).reshape(-1, *shape))
        how = "up" if self.form == "pool" else "unstride"
        for i, many in enumerate(more):
            x = Conv(many * self.depth, how, self.dtype, name=f"conv{i}")(x)
            x = NormAct(name=f"norm{i}")(x)
        channels = sum(s.shape[-1] for _, s in images)
        how = "up" if self.form == "pool" else "plain"
        x = Conv(channels, how, self.dtype, name="image")(x)
        return nn.sigmoid(x.astype(jnp.float32))


def reconstruction(predicted, true, space: Space):
    """Loss of one observation, summed over its elements: [B, ...] -> [B].

    Squared error of images in 0..1 and of symlogs; cross-entropy of integers.
    """
    axes = tuple(range(1, 1 + len(space.shape)))
    if space.is_image:
        return jnp.square(predicted - true.astype(jnp.float32) / 255).sum(axes)
    if space.is_discrete:
        logp = jax.nn.log_softmax(predicted)
        hot = jax.nn.one_hot(true, space.classes)
        return -(hot * logp).sum((*axes, len(axes) + 1))
    return jnp.square(predicted - symlog(true.astype(jnp.float32))).sum(axes)


def decoded_values(x, space: Space):
    """The decoder's output for a space in the units of the observation; logits stay."""
    return x if space.is_image or space.is_discrete else symexp(x)
