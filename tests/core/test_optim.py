"""Schedules against the released numbers, and AdamW, EMA, clip against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.jepa import get_config
from core import optim
from core.update import keep_if

same = np.testing.assert_allclose


def schedules(preset):
    """lr, decay and momentum of a preset as functions of the update count."""
    config = get_config(preset).to_dict()
    return {
        name: optim.make_schedule(**config["optimizer"][name], steps=config["steps"])
        for name in ("lr", "decay", "momentum")
    }


@pytest.mark.parametrize("preset", ["v1_l", "v1_h", "v1_h384"])
def test_schedules_of_v1(preset):
    lr, decay, momentum = schedules(preset).values()
    same(lr(1), 2e-4 + 4.25e-4 / 12_000, rtol=1e-6)
    same(lr(6_000), (2e-4 + 6.25e-4) / 2, rtol=1e-6)
    same(lr(12_000), 6.25e-4, rtol=1e-6)
    same(lr(90_000), 7.50e-5, atol=5e-8)
    same(decay(1), 0.04, atol=1e-8)
    same(decay(12_000), 0.4 - 0.18 * (1 + np.cos(np.pi * 12 / 112.5)), rtol=1e-6)
    same(decay(90_000), 0.3656, atol=5e-5)
    same(momentum(0), 0.998, atol=1e-7)  # of the first update
    same(momentum(89_999), 0.998 + 0.002 * 89_999 / 112_500, atol=1e-7)


@pytest.mark.parametrize("preset", ["v2_l", "v2_h", "v2_g"])
def test_schedules_of_v2(preset):
    lr, decay, momentum = schedules(preset).values()
    same(lr(1), 1e-4 + 4.25e-4 / 12_000, rtol=1e-6)
    same(lr(12_000), 5.25e-4, rtol=1e-6)
    for s in (1, 12_000, 90_000, 240_000):
        same(decay(s), 0.04)
        same(momentum(s), 0.99925)
        if s >= 12_000:
            same(lr(s), 5.25e-4, rtol=1e-6)


@pytest.mark.parametrize("letter", ["l", "h", "g", "g384"])
def test_cooldowns_end_at_the_rate_of_the_released_ones(letter):
    """12,000 of 15,000 steps of a line from 5.25e-4 to 1e-6; the paper's ends at 1e-6."""
    lr = schedules(f"v2_{letter}_cooldown")["lr"]
    same(lr(1), 5.25e-4 - 5.24e-4 / 15_000, rtol=1e-6)
    same(lr(6_000), 3.154e-4, rtol=1e-6)
    same(lr(12_000), 1.058e-4, rtol=1e-6)
    numbers = get_config(f"v2_{letter}_cooldown").optimizer.lr.to_dict()
    paper = optim.make_schedule(**numbers | {"stretch": 1.0}, steps=12_000)
    same(paper(12_000), 1e-6, rtol=1e-4)


def test_cosine_reaches_its_floor_and_stays():
    numbers = {"start": 0.0, "peak": 1.0, "final": 0.1, "warmup_steps": 10}
    lr = optim.make_schedule("warmup_cosine", **numbers, steps=50)
    same([lr(5), lr(10), lr(30), lr(50), lr(80)], [0.5, 1, 0.55, 0.1, 0.1], rtol=1e-6)
    no_warmup = optim.make_schedule(
        "warmup_cosine", **numbers | {"warmup_steps": 0}, steps=50
    )
    same(no_warmup(0), 1.0)


def test_schedules_are_the_same_inside_jit():
    for schedule in schedules("v1_l").values():
        for s in (1, 12_000, 90_000):
            same(jax.jit(schedule)(jnp.asarray(s, jnp.int32)), schedule(s), rtol=1e-6)


def test_wrong_schedules_are_told():
    with pytest.raises(ValueError, match="'step' is unknown; use one of .*'cosine'"):
        optim.make_schedule("step", steps=10)
    with pytest.raises(TypeError, match="finale"):
        optim.make_schedule("linear", start=1.0, finale=0.0, steps=10)


def tree(seed):
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": {"kernel": (6, 4), "bias": (4,)},
        "stack": {"blocks": {"norm1": {"scale": (2, 4), "bias": (2, 4)}}},
        "mask_tokens": (3, 4),
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def test_decay_spares_biases_and_norms_alone():
    assert optim.decays(tree(0)) == {
        "embed": {"kernel": 1.0, "bias": 0.0},
        "stack": {"blocks": {"norm1": {"scale": 0.0, "bias": 0.0}}},
        "mask_tokens": 1.0,
    }


RATES = [(1e-2, 0.1), (3e-3, 0.2), (1e-4, 0.0), (2e-2, 0.4)]  # lr and decay change


def updated(betas, eps):
    """Parameters after a few updates of ours."""
    params, opt = tree(0), optim.adam_moments(tree(0))
    for i, (lr, decay) in enumerate(RATES):
        rates = {"lr": lr, "decay": decay, "betas": betas, "eps": eps}
        params, opt = optim.adamw(tree(i + 1), opt, params, **rates)
    return params


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
def test_adamw_is_as_written_out(betas):
    (b1, b2), eps = betas, 1e-3
    p, factor = tree(0), optim.decays(tree(0))
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
    m = v = jax.tree.map(np.zeros_like, p)
    for t, (lr, decay) in enumerate(RATES, 1):
        g = jax.tree.map(lambda x: np.asarray(x, np.float64), tree(t))
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)

        def moved(p, m, v, d, t=t, lr=lr, decay=decay):
            p = p * (1 - lr * decay * d)  # decoupled, before the step, as in torch
            return p - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

        p = jax.tree.map(moved, p, m, v, factor)
    jax.tree.map(lambda a, b: same(a, b, atol=2e-6), updated(betas, eps), p)


def test_adamw_is_that_of_optax():
    params = tree(0)
    mask = jax.tree.map(bool, optim.decays(params))
    make = optax.inject_hyperparams(optax.adamw, static_args=("mask",))
    tx = make(learning_rate=0.0, weight_decay=0.0, b1=0.9, b2=0.999, mask=mask)
    opt = tx.init(params)
    for i, (lr, decay) in enumerate(RATES):
        opt.hyperparams.update(learning_rate=lr, weight_decay=decay)
        updates, opt = tx.update(tree(i + 1), opt, params)
        params = optax.apply_updates(params, updates)
    ours = updated((0.9, 0.999), 1e-8)
    jax.tree.map(lambda a, b: same(a, b, atol=1e-6), ours, params)


def test_clip_scales_only_what_is_too_long():
    grads = tree(3)
    norm = float(np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(grads))))
    short = optim.clip(grads, norm / 4)
    jax.tree.map(lambda a, b: same(a, b / 4, rtol=1e-5), short, grads)
    for limit in (norm * 1.01, jnp.inf):
        jax.tree.map(np.testing.assert_array_equal, optim.clip(grads, limit), grads)
    zero = jax.tree.map(jnp.zeros_like, grads)
    jax.tree.map(np.testing.assert_array_equal, optim.clip(zero, 1.0), zero)


def test_ema_forgets_by_its_momentum():
    target, params = tree(0), tree(1)
    again = optim.ema(target, params, 0.998)
    jax.tree.map(
        lambda a, t, p: same(a, 0.998 * t + 0.002 * p, atol=1e-6), again, target, params
    )
    jax.tree.map(np.testing.assert_array_equal, optim.ema(target, params, 1.0), target)
    for _ in range(924):  # the published half-life of 0.99925
        target = optim.ema(target, params, 0.99925)
    jax.tree.map(
        lambda a, t, p: same(a, (t + p) / 2, atol=2e-3), target, tree(0), params
    )


def test_keep_if_leaves_no_trace_of_a_bad_update():
    bad = jax.tree.map(lambda x: x * jnp.nan, tree(1))
    kept = keep_if(jnp.asarray(False), bad, tree(0))
    jax.tree.map(np.testing.assert_array_equal, kept, tree(0))
    taken = keep_if(jnp.asarray(True), tree(1), tree(0))
    jax.tree.map(np.testing.assert_array_equal, taken, tree(1))
