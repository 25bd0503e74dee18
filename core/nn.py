"""Transformer blocks shared by all methods, and the parts that they are made of."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.attention import Attention
from core.layers import Dense, LayerNorm, gelu
from core.sharding import constrain


class Mlp(nn.Module):
    """Two-layer perceptron with the exact (erf) GELU."""

    hidden: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        D = x.shape[-1]
        y = gelu(Dense(self.hidden, ("embed", "mlp"), self.dtype, name="up")(x))
        return Dense(D, ("mlp", "embed"), self.dtype, name="down")(y)


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
    """`depth` equal blocks as one stacked pytree, run in turn.

    Args:
      rescale: divide the two output projections of block l (from 1) by sqrt(2 l) at
        initialisation, as V-JEPA 2 does.
      remat: "none" keeps activations and runs the blocks one by one: a scan would copy
        all of them into stacked arrays and out again (15% of a small step on CPU).
        "block" recomputes each block backward, in a scan: a deep stack compiles fast.
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
        if self.remat == "block" and self.depth:
            return jax.lax.scan(jax.checkpoint(body, prevent_cse=False), x, params)[0]
        for weights in unstack(params, self.depth):
            x, _ = body(x, weights)
        return x


def unstack(params, depth):
    """Weights of `depth` layers, one tree each; their gradients are joined at once."""
    leaves, tree = jax.tree.flatten(params)
    layers = zip(*(jnp.unstack(w) for w in leaves), strict=True)
    return [jax.tree.unflatten(tree, layer) for layer in layers]


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
