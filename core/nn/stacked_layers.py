"""Weights of equal layers as one stacked pytree: axis names, initial scale, parts."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def unstack(params, depth: int) -> list[Any]:
    """Weights of `depth` layers, one tree each; their gradients are stacked at once."""
    leaves, tree = jax.tree.flatten(params)
    layers = zip(*(jnp.unstack(w) for w in leaves), strict=True)
    return [jax.tree.unflatten(tree, layer) for layer in layers]


def stretches(params, ends: tuple[int, ...]) -> list[Any]:
    """The stack in parts, each up to and with one of the layers `ends`; whole if empty."""
    if not ends:
        return [params]
    starts = (0, *(end + 1 for end in ends[:-1]))
    return [
        jax.tree.map(lambda w, a=a, b=b: w[a : b + 1], params)
        for a, b in zip(starts, ends, strict=True)
    ]


def name_layers(params, depth: int, rescale: bool):
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
