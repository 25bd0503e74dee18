"""Transformer parts shared by all methods: dense, norm, attention, block, stack, positions.

Weights carry logical axis names; `core/sharding.py` alone gives names a layout. Norm
statistics, softmax and rotary angles are float32 whatever the compute dtype.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.sharding import constrain


def dense(features, names, *, name, dtype, use_bias=True, std=0.02):
    """A linear layer whose kernel [in, features] carries the two axis `names`."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(nn.initializers.normal(std), names),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, names[1:]),
        name=name,
    )


class LayerNorm(nn.Module):
    """Affine layer norm over the last axis, statistics in float32."""

    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape, named = x.shape[-1:], nn.with_logical_partitioning
        scale = self.param("scale", named(nn.initializers.ones, ("embed",)), shape)
        bias = self.param("bias", named(nn.initializers.zeros, ("embed",)), shape)
        y = normalize(x, eps=self.eps) * scale + bias
        return y.astype(self.dtype)


def normalize(x, *, eps):
    """Layer norm without scale or shift over the last axis, in float32."""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


def rope_channels(head_dim: int) -> int:
    """Channels turned per axis: 2 * floor(floor(head_dim / 3) / 2); the rest stay."""
    return 2 * (head_dim // 3 // 2)


def rope_tables(positions, *, head_dim: int, variant: str, theta: float = 10_000.0):
    """cos and sin of 3D rotary angles: [B, N, 3] -> two [B, N, 2, 3k/2], k channels an axis.

    The axis of size two holds the first and the second member of every adjacent channel
    pair. "tiled" repeats the k/2 angles end to end, so that the members of a pair turn
    by different angles (released V-JEPA 2 weights depend on it); "paired" gives both the
    same angle, the textbook rotation of V-JEPA 2.1 (arXiv 2506.09985, 2603.14482).
    """
    if variant not in ("tiled", "paired"):
        raise ValueError(f"rope variant is {variant!r}; use 'tiled' or 'paired'")
    k = rope_channels(head_dim)
    omega = theta ** (-np.arange(k // 2) / (k / 2))
    table = np.tile(omega, 2) if variant == "tiled" else np.repeat(omega, 2)
    table = table.reshape(-1, 2).T.astype(np.float32)  # [2, k/2]
    angle = positions.astype(jnp.float32)[:, :, None, :, None] * table[:, None]
    angle = angle.reshape(*positions.shape[:2], 2, 3 * (k // 2))
    return jnp.cos(angle), jnp.sin(angle)


def deinterleave(head_dim: int) -> np.ndarray:
    """Channel order (first of each turned pair, second of each, unturned rest).

    Queries and keys may be permuted alike without changing attention; two halves turn
    with contiguous arithmetic where adjacent pairs need a shuffle.
    """
    turned = 3 * rope_channels(head_dim)
    rest = np.arange(turned, head_dim)
    return np.concatenate([np.arange(0, turned, 2), np.arange(1, turned, 2), rest])


def rotate(x, cos, sin):
    """Turn de-interleaved queries or keys [B, H, N, d] by tables [B, N, 2, m], in float32."""
    m = cos.shape[-1]
    y = x.astype(jnp.float32)
    a, b, rest = y[..., :m], y[..., m : 2 * m], y[..., 2 * m :]
    cos, sin = cos[:, None], sin[:, None]
    first = a * cos[..., 0, :] - b * sin[..., 0, :]
    second = b * cos[..., 1, :] + a * sin[..., 1, :]
    return jnp.concatenate([first, second, rest], -1).astype(x.dtype)


def sincos(positions: np.ndarray, width: int) -> np.ndarray:
    """Fixed 3D features [N, 3] -> float32 [N, width], V-JEPA 1 (arXiv 2404.08471).

    Each axis gets 2 * ceil(width / 6) channels, sines before cosines, ordered time, row,
    column, and the whole is cut to `width`: the column axis loses what is too much.
    """
    m = 2 * -(-width // 6)
    omega = 1.0 / 10_000 ** (np.arange(m // 2, dtype=np.float64) / (m / 2))
    angle = positions.astype(np.float64)[:, :, None] * omega
    table = np.concatenate([np.sin(angle), np.cos(angle)], -1)
    return table.reshape(len(positions), 3 * m)[:, :width].astype(np.float32)


def attend(q, k, v, valid=None):
    """Softmax attention [B, H, N, d] x3 -> [B, H, N, d]; keys where `valid` [B, N] is
    false are left out. Softmax in float32."""
    scores = jnp.einsum(
        "bhqd,bhkd->bhqk",
        q * q.shape[-1] ** -0.5,
        k,
        preferred_element_type=jnp.float32,
    )
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, -1e30)
    weights = jax.nn.softmax(scores).astype(v.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions, inside independent segments.

    `segments` are lengths that sum to N: tokens see only their own segment. Several mask
    patterns of a clip thus share every matrix product and pay attention only for
    themselves.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, x, rope, valid, segments):
        B, N, D = x.shape
        d = D // self.heads
        assert d * self.heads == D and sum(segments) == N, (x.shape, segments)
        names = ("embed", "heads")

        def project(name):
            y = dense(D, names, name=name, dtype=self.dtype, use_bias=self.qkv_bias)(x)
            return y.reshape(B, N, self.heads, d).swapaxes(1, 2)

        q, k, v = project("query"), project("key"), project("value")
        if rope is not None:
            order = deinterleave(d)
            q, k = (rotate(y[..., order], *rope) for y in (q, k))
        parts, start = [], 0
        for n in segments:
            here = slice(start, start + n)
            seen = None if valid is None else valid[:, here]
            parts.append(attend(q[:, :, here], k[:, :, here], v[:, :, here], seen))
            start += n
        y = jnp.concatenate(parts, 2) if len(parts) > 1 else parts[0]
        y = y.swapaxes(1, 2).reshape(B, N, D)
        return dense(D, ("heads", "embed"), name="out", dtype=self.dtype)(y)


class Mlp(nn.Module):
    """Two-layer perceptron with the exact (erf) GELU."""

    hidden: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        D = x.shape[-1]
        y = dense(self.hidden, ("embed", "mlp"), name="up", dtype=self.dtype)(x)
        y = nn.gelu(y, approximate=False)
        return dense(D, ("mlp", "embed"), name="down", dtype=self.dtype)(y)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    heads: int
    hidden: int
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, x, rope, valid, segments):
        norm = {"eps": self.eps, "dtype": self.dtype}
        attention = Attention(
            self.heads, dtype=self.dtype, qkv_bias=self.qkv_bias, name="attention"
        )
        x = x + attention(LayerNorm(**norm, name="norm1")(x), rope, valid, segments)
        mlp = Mlp(self.hidden, dtype=self.dtype, name="mlp")
        x = x + mlp(LayerNorm(**norm, name="norm2")(x))
        return constrain(x, "batch", None, None)


class Stack(nn.Module):
    """`depth` equal blocks as one stacked pytree, run by a scan.

    Args:
      rescale: divide the two output projections of block l (from 1) by sqrt(2 l) at
        initialisation, as V-JEPA 2 does.
      remat: "none" keeps activations, "block" recomputes each block backward.
      keep: return the outputs of these block indices instead of the last.
    """

    depth: int
    heads: int
    hidden: int
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    qkv_bias: bool = True
    rescale: bool = True
    remat: str = "none"

    @nn.compact
    def __call__(self, x, rope=None, valid=None, segments: Sequence[int] | None = None):
        segments = tuple(segments or (x.shape[1],))
        block = Block(
            self.heads, self.hidden, self.eps, self.dtype, self.qkv_bias, parent=None
        )

        def init(key):
            one = jnp.zeros((1, 8, x.shape[-1]), self.dtype)
            keys = jax.random.split(key, self.depth)
            params = jax.vmap(lambda k: block.init(k, one, None, None, (8,)))(keys)
            return name_layers(params["params"], self.depth, self.rescale)

        params = self.param("blocks", init) if self.depth else None

        def body(x, weights):
            return block.apply({"params": weights}, x, rope, valid, segments), None

        if self.remat not in ("none", "block"):
            raise ValueError(f"remat is {self.remat!r}; use 'none' or 'block'")
        if self.remat == "block":
            body = jax.checkpoint(body, prevent_cse=False)
        return jax.lax.scan(body, x, params)[0] if self.depth else x


def name_layers(params, depth, rescale):
    """Name the leading axis of stacked block weights; scale down the residual outputs."""
    scale = 1 / np.sqrt(2 * np.arange(1, depth + 1, dtype=np.float32))[:, None, None]

    def one(path, box):
        names = [str(k.key) for k in path]
        value = box.value
        if rescale and names[-2:] in (["out", "kernel"], ["down", "kernel"]):
            value = value * scale
        return box.replace(value=value, names=("layers", *box.names))

    boxed = nn.LogicallyPartitioned
    return jax.tree_util.tree_map_with_path(
        one, params, is_leaf=lambda x: isinstance(x, boxed)
    )
