"""Fits many heads at once on the same batches: rates by decays by seeds."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.parallel.layouts import unbox


class Setting(NamedTuple):
    """Of one head: peak learning rate, AdamW's decay, seed of the initial weights."""

    rate: float
    decay: float
    seed: int


class Grid(NamedTuple):
    """Settings of heads; a head per combination.

    rates: peak learning rates. decays: of AdamW, on all parameters as in V-JEPA 2's heads.
    seeds: of initial weights.
    """

    rates: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    decays: tuple[float, ...] = (0.8, 0.4, 0.1, 0.01)
    seeds: tuple[int, ...] = (0, 1, 2)

    def settings(self) -> list[Setting]:
        """One per head, the seeds of a rate and decay beside each other."""
        return [
            Setting(rate, decay, seed)
            for rate in self.rates
            for decay in self.decays
            for seed in self.seeds
        ]


def cross_entropy(outputs, labels):
    """Mean over rows: logits [b, classes], labels int [b] -> []."""
    logs = jax.nn.log_softmax(outputs.astype(jnp.float32))
    return -jnp.take_along_axis(logs, labels[:, None], -1).mean()


def batches_of(
    take: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    *,
    batch: int,
    steps: int,
    seed: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of whole shuffled epochs: (features float32 [b, N, D], labels [b]).

    take: rows of `labels`, rising -> their features.
    """
    rng, n = np.random.default_rng(seed), len(labels)
    batch, order = min(batch, n), np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(n)])
        rows, order = np.sort(order[:batch]), order[batch:]
        yield np.asarray(take(rows), np.float32), labels[rows]


def heads_at_once(head: nn.Module, x, gigabytes: float) -> int:
    """How many heads and their two moments fit in `gigabytes`; at least 1. x: tokens."""
    shapes = jax.eval_shape(lambda: unbox(head.init(jax.random.key(0), x[:1])))
    values = sum(math.prod(p.shape) for p in jax.tree.leaves(shapes))
    # Parameters, two moments, gradients; all float32.
    return max(1, int(gigabytes * 1e9 / (4 * 4 * values)))


def fit_heads(
    head: nn.Module,
    batches: Iterator,
    *,
    settings: Sequence[Setting],
    steps: int,
    loss: Callable[[Any, Any], jax.Array] = cross_entropy,
    progress: Callable[[int], None] = lambda step: None,
) -> Any:
    """Train a head per setting on the same batches; returns stacked params [heads, ...].

    AdamW with betas 0.9 and 0.999, decay on all parameters, and rates that fall to 0 along
    a cosine without warm-up (arXiv 2506.09985, appendix). loss: (outputs, labels) of a
    batch -> []. progress: called after each step.
    """
    rates, decays = (
        jnp.asarray(values, jnp.float32)
        for values in zip(*((s.rate, s.decay) for s in settings), strict=True)
    )
    params, opt = None, None
    for step, (x, y) in zip(range(steps), batches, strict=False):
        if params is None:
            params, opt = init_heads(head, [s.seed for s in settings], x[:1])
        share = 0.5 * (1 + np.cos(np.pi * step / steps))
        params, opt = update(head, loss, params, opt, x, y, rates * share, decays)
        progress(step + 1)
    assert params is not None, steps
    return params


def init_heads(head: nn.Module, seeds: list[int], x):
    """(params of heads, Adam's empty moments), each stacked over `seeds`."""
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])

    @jax.jit
    def init(keys):
        params = jax.vmap(lambda key: unbox(head.init(key, x))["params"])(keys)
        return params, jax.vmap(optax.scale_by_adam().init)(params)

    return init(keys)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def update(head, loss, params, opt, x, y, rates, decays):
    """One AdamW update of every head: (params, moments)."""

    def one(params, opt, rate, decay):
        grads = jax.grad(lambda p: loss(head.apply({"params": p}, x), y))(params)
        steps, opt = optax.scale_by_adam().update(grads, opt)
        params = jax.tree.map(lambda p, u: p - rate * (u + decay * p), params, steps)
        return params, opt

    return jax.vmap(one)(params, opt, rates, decays)


@functools.partial(jax.jit, static_argnums=0)
def outputs_of(head, params, x):
    """Outputs of every head: stacked params, tokens [b, N, D] -> [heads, b, outputs]."""
    return jax.vmap(lambda p: head.apply({"params": p}, x))(params)
