"""Key-value cache of a transformer: what `Transformer.extend` reads and writes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Cache(NamedTuple):
    """Keys and values of all layers, [depth, B, M, kv_heads, head_dim], M the capacity.

    length: int32 [], tokens written so far; those behind them are unused. Keys are stored
    after their norm and rotation.
    """

    keys: jax.Array
    values: jax.Array
    length: jax.Array

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]


class LayerCache(NamedTuple):
    """The cache as one layer sees it: `layer` is its int32 index.

    All layers are carried through the stack together, so that XLA writes in place.
    """

    cache: Cache
    layer: jax.Array


def empty_cache(
    depth: int, batch: int, capacity: int, kv_heads: int, head_dim: int, dtype
) -> Cache:
    """A cache without tokens."""
    zeros = jnp.zeros((depth, batch, capacity, kv_heads, head_dim), dtype)
    return Cache(zeros, zeros, jnp.zeros((), jnp.int32))


def write(where: LayerCache, keys, values) -> LayerCache:
    """Store keys and values [B, n, kv_heads, head_dim] behind the layer's last ones.

    `length` stays: all layers of a pass write at the same place.
    """
    cache, layer = where
    start = (layer, 0, cache.length, 0, 0)

    def put(old, new):
        return jax.lax.dynamic_update_slice(old, new[None].astype(old.dtype), start)

    cache = cache._replace(keys=put(cache.keys, keys), values=put(cache.values, values))
    return LayerCache(cache, layer)


def read(where: LayerCache) -> tuple[jax.Array, jax.Array]:
    """(keys, values) of the layer, [B, M, kv_heads, head_dim], unused ones included."""
    cache, layer = where
    return cache.keys[layer], cache.values[layer]
