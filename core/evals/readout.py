"""Readouts: small networks fitted to labels on frozen features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.evals.progress import watched
from core.method import UNWATCHED
from core.parallel.layouts import unbox

WAIT_EVERY = 20  # updates, after which the device is waited for, so that stops are seen


def fit_readout(
    readout,
    features,
    labels,
    *,
    steps,
    batch,
    lr,
    seed=0,
    watch=UNWATCHED,
    what="readout",
):
    """Train a readout, a Flax module, from features [n, ...] to labels [n, ...].

    AdamW on the mean squared error, with random rows in each of `steps` batches. watch,
    what: for lines of progress; raises Stopped.

    Returns:
      its parameters, and the loss of every step, [steps].
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    fit = {"readout": readout, "steps": steps, "batch": batch, "lr": lr}
    key, losses = jax.random.key(seed), []
    params, opt = begin(key, features[:1], **fit)
    for i in watched(range(steps), f"{what}: steps", watch):
        params, opt, loss = update(
            params, opt, jax.random.fold_in(key, i), features, labels, **fit
        )
        losses.append(loss)
        if i % WAIT_EVERY == 0:
            jax.block_until_ready(loss)
    return params, jnp.stack(losses)


FIT = ("readout", "steps", "batch", "lr")


def optimizer(steps: int, lr: float):
    """AdamW with a one-cycle rate."""
    return optax.adamw(
        optax.cosine_onecycle_schedule(steps, lr, 0.15), weight_decay=0.01
    )


@functools.partial(jax.jit, static_argnames=FIT)
def begin(key, x, *, readout, steps, batch, lr):
    """(params, moments) of a readout of features like x."""
    params = unbox(readout.init(key, x.astype(jnp.float32)))["params"]
    return params, optimizer(steps, lr).init(params)


@functools.partial(jax.jit, static_argnames=FIT, donate_argnums=(0, 1))
def update(params, opt, key, features, labels, *, readout, steps, batch, lr):
    """One update on `batch` rows: (params, moments, loss)."""
    rows = jax.random.randint(key, (batch,), 0, len(features))
    x, y = features[rows].astype(jnp.float32), labels[rows]

    def loss_fn(params):
        return jnp.square(readout.apply({"params": params}, x) - y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt = optimizer(steps, lr).update(grads, opt, params)
    return optax.apply_updates(params, updates), opt, loss


def in_batches(f, x, size=100, *, watch=UNWATCHED, what="rows"):
    """f(x) for a pytree of arrays [n, ...], computed on `size` rows at a time.

    Bounds device memory; the result is on the host. watch, what: for lines of progress.
    """

    def rows_from(i):
        return jax.tree.map(lambda x: x[i : i + size], x)

    first_rows = range(0, len(jax.tree.leaves(x)[0]), size)
    parts = watched(first_rows, f"{what}: parts", watch)
    found = [jax.device_get(f(rows_from(i))) for i in parts]
    return jax.tree.map(lambda *x: np.concatenate(x), *found)
