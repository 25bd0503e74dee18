"""Schedules, decay masks, AdamW and LaProp with explicit rates, EMA.

Schedules are functions of the 1-based update count s, as in the published trainers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def warmup_cosine(s, *, start, peak, final, warmup_steps, steps, stretch=1.0):
    """Linear from `start` to `peak`, then cosine to `final` at `steps * stretch`."""
    s, total = jnp.asarray(s, jnp.float32), steps * stretch
    warm = start + s / max(warmup_steps, 1) * (peak - start)
    share = jnp.clip((s - warmup_steps) / max(total - warmup_steps, 1), 0, 1)
    cosine = final + (peak - final) * (1 + jnp.cos(jnp.pi * share)) / 2
    return jnp.where(s < warmup_steps, warm, cosine)


def warmup_constant(s, *, start, peak, warmup_steps):
    """Linear from `start` to `peak`, then flat (V-JEPA 2, primary phase)."""
    s = jnp.asarray(s, jnp.float32)
    return jnp.where(
        s < warmup_steps, start + s / max(warmup_steps, 1) * (peak - start), peak
    )


def linear(s, *, start, final, steps, stretch=1.0):
    """Straight from `start` to `final` at `steps * stretch` (cooldown, momentum)."""
    share = jnp.clip(jnp.asarray(s, jnp.float32) / max(steps * stretch, 1), 0, 1)
    return start + share * (final - start)


def cosine(s, *, start, final, steps, stretch=1.0):
    """Half a cosine from `start` to `final` at `steps * stretch` (weight decay)."""
    share = jnp.clip(jnp.asarray(s, jnp.float32) / max(steps * stretch, 1), 0, 1)
    return final + (start - final) * (1 + jnp.cos(jnp.pi * share)) / 2


def constant(s, *, value):
    """The same value at every step."""
    return jnp.full(jnp.shape(s), value, jnp.float32)


SCHEDULES = {
    f.__name__: f for f in (warmup_cosine, warmup_constant, linear, cosine, constant)
}


def make_schedule(kind, *, steps, **numbers):
    """A schedule by name over a run of `steps`; its numbers are keyword arguments."""
    if kind not in SCHEDULES:
        raise ValueError(
            f"schedule {kind!r} is unknown; use one of {sorted(SCHEDULES)}"
        )
    if kind not in ("warmup_constant", "constant"):
        numbers["steps"] = steps
    schedule = SCHEDULES[kind]
    jax.eval_shape(lambda: schedule(1, **numbers))  # a mistyped number fails here
    return lambda s: schedule(s, **numbers)


def decays(params):
    """1.0 where weight decay applies, 0.0 for biases and norm scales."""

    def one(path, _):
        return 0.0 if path[-1].key in ("bias", "scale") else 1.0

    return jax.tree_util.tree_map_with_path(one, params)


def adamw(grads, opt, params, *, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    """One AdamW update with explicit rates: (new params, new moments)."""
    updates, opt = optax.scale_by_adam(*betas, eps=eps).update(grads, opt)
    params = jax.tree.map(
        lambda p, u, d: p - lr * (u + decay * d * p), params, updates, decays(params)
    )
    return params, opt


def adam_moments(params):
    """Empty first and second moments for `adamw`."""
    return optax.scale_by_adam().init(params)


class Laprop(NamedTuple):
    """Moments of `laprop`: updates so far, mean square gradient, mean scaled gradient."""

    count: jax.Array
    square: dict
    mean: dict


def laprop_moments(params) -> Laprop:
    """Empty moments for `laprop`."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Laprop(jnp.zeros((), jnp.int32), zeros, zeros)


def laprop(grads, opt, params, *, lr, betas=(0.9, 0.999), eps=1e-20, agc=0.3):
    """One LaProp update (arXiv 2002.04839): (new params, new moments).

    Unlike Adam it divides by the root mean square before it averages. Each gradient is
    first cut to `agc` times its tensor's norm (arXiv 2102.06171, on whole tensors), which
    counts as 1e-3 at least.
    """
    count = opt.count + 1
    grads = jax.tree.map(lambda g, p: adaptive_clip(g, p, agc), grads, params)

    def average(rate, old, new):
        return jax.tree.map(lambda a, b: rate * a + (1 - rate) * b, old, new)

    square = average(betas[1], opt.square, jax.tree.map(jnp.square, grads))
    rates = (1 - beta**count for beta in betas)
    unbias, unbias_square = (r.astype(jnp.float32) for r in rates)
    scaled = jax.tree.map(
        lambda g, s: g / (jnp.sqrt(s / unbias_square) + eps), grads, square
    )
    mean = average(betas[0], opt.mean, scaled)
    params = jax.tree.map(lambda p, m: p - lr * (m / unbias), params, mean)
    return params, Laprop(count, square, mean)


def adaptive_clip(grad, param, share):
    """A gradient cut to `share` of the norm of what it is the gradient of."""
    limit = share * jnp.maximum(1e-3, jnp.sqrt(jnp.square(param).sum()))
    norm = jnp.sqrt(jnp.square(grad).sum())
    return grad * jnp.minimum(1, limit / jnp.maximum(norm, 1e-12))


def clip(grads, limit):
    """Scale gradients to at most `limit` in global norm."""
    norm = optax.tree.norm(grads)
    scale = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * scale, grads)


def ema(target, params, momentum):
    """momentum * target + (1 - momentum) * params, in the target's precision."""
    return jax.tree.map(lambda t, p: t + (1 - momentum) * (p - t), target, params)
