"""Readouts: small networks fitted to labels on frozen features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.parallel.layouts import unbox


@functools.partial(jax.jit, static_argnames=("readout", "steps", "batch", "lr"))
def fit_readout(readout, features, labels, *, steps, batch, lr, seed=0):
    """Train a readout, a Flax module, from features [n, ...] to labels [n, ...].

    AdamW on the mean squared error, with random rows in each of `steps` batches.

    Returns:
      its parameters, and the loss of every step, [steps].
    """
    key = jax.random.key(seed)
    params = unbox(readout.init(key, features[:1].astype(jnp.float32)))["params"]
    tx = optax.adamw(optax.cosine_onecycle_schedule(steps, lr, 0.15), weight_decay=0.01)

    def loss_fn(params, x, y):
        return jnp.square(readout.apply({"params": params}, x) - y).mean()

    def step(carry, i):
        params, opt = carry
        rows = jax.random.randint(
            jax.random.fold_in(key, i), (batch,), 0, len(features)
        )
        loss, grads = jax.value_and_grad(loss_fn)(
            params, features[rows].astype(jnp.float32), labels[rows]
        )
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), loss

    (params, _), losses = jax.lax.scan(
        step, (params, tx.init(params)), jnp.arange(steps)
    )
    return params, losses


def in_batches(f, x, size=100):
    """f(x) for a pytree of arrays [n, ...], computed on `size` rows at a time.

    Bounds device memory; the result is on the host.
    """

    def rows_from(i):
        return jax.tree.map(lambda x: x[i : i + size], x)

    first_rows = range(0, len(jax.tree.leaves(x)[0]), size)
    found = [jax.device_get(f(rows_from(i))) for i in first_rows]
    return jax.tree.map(lambda *x: np.concatenate(x), *found)
