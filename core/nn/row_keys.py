"""Random keys for many worlds: one key for all of them, or one for each row.

What is drawn with a key of its own for each row does not change with the rows beside it,
nor with the devices that they are spread over.
"""

import jax
import jax.numpy as jnp


def fold(key, data):
    """A new stream of a key, or of each key [N]."""
    if key.ndim:
        return jax.vmap(jax.random.fold_in, (0, None))(key, data)
    return jax.random.fold_in(key, data)


def grid(keys, steps: int):
    """Keys of `steps` steps of rows with keys [B]: [steps * B], step by step."""
    return jax.vmap(lambda t: fold(keys, t))(jnp.arange(steps)).reshape(-1)


def draw(distribution, key, shape):
    """Float32 numbers of shape [N, ...] of jax.random's `distribution`."""
    if key.ndim:
        return jax.vmap(lambda k: distribution(k, shape[1:]))(key)
    return distribution(key, shape)
