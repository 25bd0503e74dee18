"""Random keys for batches: one key for all rows, or one key per row.

Samples drawn with a key per row do not depend on the other rows or on how rows are split
over devices. A scalar key has shape [], keys of N rows have shape [N].
"""

import jax
import jax.numpy as jnp


def fold(key: jax.Array, data) -> jax.Array:
    """jax.random.fold_in of a key, or of each key [N]; the same shape."""
    if key.ndim:
        return jax.vmap(jax.random.fold_in, (0, None))(key, data)
    return jax.random.fold_in(key, data)


def step_keys(keys: jax.Array, steps: int) -> jax.Array:
    """Keys [B] of rows -> keys [steps * B] of all rows at each step, step by step."""
    return jax.vmap(lambda t: fold(keys, t))(jnp.arange(steps)).reshape(-1)


def sample(distribution, key: jax.Array, shape) -> jax.Array:
    """Float32 samples of shape [N, ...]; distribution: jax.random.normal or a like one."""
    if key.ndim:
        return jax.vmap(lambda k: distribution(k, shape[1:]))(key)
    return distribution(key, shape)
