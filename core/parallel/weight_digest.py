"""A digest of weights that is the same on every mesh."""

import hashlib

import jax
import jax.numpy as jnp


def weight_digest(tree) -> str:
    """Hexadecimal digest of float32 arrays and their places in the tree.

    Sums of integers are exact in any order, so that layouts do not matter. It tells encoders
    apart; it does not protect against forgery.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    sums = jax.device_get(jax.jit(checksums)([x for _, x in leaves]))
    text = [
        f"{name} {list(x.shape)} {int(total)}"
        for name, (_, x), total in zip(names, leaves, sums, strict=True)
    ]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def checksums(arrays) -> list[jax.Array]:
    """A uint32 for each array: bits of its numbers, weighed by their positions."""
    return [checksum(x.astype(jnp.float32)) for x in arrays]


def checksum(x) -> jax.Array:
    """uint32 of a float32 array; modulo 2^32."""
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, length in enumerate(x.shape):
        where = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place * jnp.uint32(length) + where
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return ((bits ^ (bits >> 15)) * (2 * place + 1)).sum(dtype=jnp.uint32)
