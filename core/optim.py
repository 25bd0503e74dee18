"""Schedules, AdamW and LaProp with explicit rates, clipping, EMA.

Schedules are functions of an update count s. The published trainers count from 1, except
for the momentum of moving averages, which they count from 0.
"""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.section import Section


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


def warmup_constant_linear(s, *, start, peak, final, warmup_steps, final_steps, steps):
    """Linear to `peak`, flat, linear to `final` in the last `final_steps` (V-JEPA 2-AC)."""
    s = jnp.asarray(s, jnp.float32)
    share = jnp.clip((s - (steps - final_steps)) / max(final_steps, 1), 0, 1)
    rate = warmup_constant(s, start=start, peak=peak, warmup_steps=warmup_steps)
    return rate + share * (final - peak)


def linear(s, *, start, final, steps, stretch=1.0):
    """Linear from `start` to `final` at `steps * stretch` (cooldown, momentum)."""
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
    f.__name__: f
    for f in (
        warmup_cosine,
        warmup_constant,
        warmup_constant_linear,
        linear,
        cosine,
        constant,
    )
}


def schedule_named(kind: str):
    """A function of SCHEDULES by name; raises ValueError if there is none."""
    if kind not in SCHEDULES:
        raise ValueError(
            f"schedule {kind!r} is unknown; use one of {sorted(SCHEDULES)}"
        )
    return SCHEDULES[kind]


def make_schedule(kind, *, steps, **numbers):
    """A schedule by name, s -> rate, over a run of `steps`.

    numbers: the other arguments of the schedule. Raises ValueError for an unknown kind.
    """
    schedule = schedule_named(kind)
    if "steps" in inspect.signature(schedule).parameters:
        numbers["steps"] = steps
    jax.eval_shape(lambda: schedule(1, **numbers))
    return lambda s: schedule(s, **numbers)


def schedule_from(section: Section, *, steps: int):
    """The schedule of a config section, {"kind": name, its numbers}, over `steps`.

    Raises ValueError that names the field for an unknown kind or number.
    """
    schedule = schedule_named(section["kind"])
    section.without("kind").check(schedule, "s", "steps")
    return make_schedule(**section, steps=steps)


def decays(params):
    """1.0 where weight decay applies, 0.0 for biases and norm scales."""

    def one(path, _):
        return 0.0 if path[-1].key in ("bias", "scale") else 1.0

    return jax.tree_util.tree_map_with_path(one, params)


def adamw(grads, opt, params, *, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    """One AdamW update (arXiv 1711.05101) with explicit rates: (params, moments)."""
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

    # The field is part of checkpoints; tuple.count is not used.
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    square: dict
    mean: dict


def laprop_moments(params) -> Laprop:
    """Empty moments for `laprop`."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Laprop(jnp.zeros((), jnp.int32), zeros, zeros)


def laprop(
    grads, opt, params, *, lr, betas=(0.9, 0.999), eps=1e-20, agc=0.3, cuts=None
):
    """One LaProp update (arXiv 2002.04839): (new params, new moments).

    Unlike Adam it divides by the root mean square before it averages. Each gradient is
    first clipped to `agc` times the norm of its tensor (arXiv 2102.06171, on whole
    tensors), which counts as at least 1e-3. cuts: path of names -> columns at which the
    last axis of that array is cut into tensors that are clipped one by one.
    """
    count = opt.count + 1

    def clipped(path, grad, param):
        at = (cuts or {}).get(tuple(key.key for key in path), ())
        if not at:
            return adaptive_clip(grad, param, agc)
        pairs = zip(jnp.split(grad, at, -1), jnp.split(param, at, -1), strict=True)
        return jnp.concatenate([adaptive_clip(g, p, agc) for g, p in pairs], -1)

    grads = jax.tree_util.tree_map_with_path(clipped, grads, params)

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
    """A gradient clipped to `share` of the norm of its parameter, arXiv 2102.06171."""
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
