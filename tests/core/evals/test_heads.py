"""Heads on frozen tokens: against recorded outputs, AdamW of optax, and each other."""

import jax
import numpy as np
import optax
import pytest

from core.evals.fit import (
    Grid,
    batches_of,
    cross_entropy,
    fit_heads,
    heads_at_once,
    init_heads,
    outputs_of,
)
from core.evals.heads import AttentiveHead, LinearHead

RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((40, 6, 16)).astype(np.float32)
LABELS = RNG.integers(0, 3, 40)


@pytest.mark.parametrize("head", [LinearHead(3), AttentiveHead(3, depth=2, heads=2)])
def test_heads_of_a_grid_are_those_trained_alone(head):
    """A head of the grid equals the same head trained by optax by itself."""
    grid, steps = Grid((1e-2, 1e-3), (0.5, 0.0), (0, 1)), 6
    both = fit_heads(
        head,
        batches_of(TOKENS.__getitem__, LABELS, batch=16, steps=steps),
        settings=grid.settings(),
        steps=steps,
    )
    i = 5
    setting = grid.settings()[i]
    assert setting == (1e-3, 0.5, 1)
    params = jax.tree.map(lambda x: x[0], init_heads(head, [1], TOKENS[:1])[0])
    rate = optax.cosine_decay_schedule(setting.rate, steps)
    tx = optax.adamw(rate, weight_decay=setting.decay)
    opt = tx.init(params)

    @jax.jit
    def update(params, opt, x, y):
        loss = lambda p: cross_entropy(head.apply({"params": p}, x), y)  # noqa: E731
        updates, opt = tx.update(jax.grad(loss)(params), opt, params)
        return optax.apply_updates(params, updates), opt

    for x, y in batches_of(TOKENS.__getitem__, LABELS, batch=16, steps=steps):
        params, opt = update(params, opt, x, y)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[i], b, atol=2e-5), both, params
    )


def test_batches_are_whole_epochs():
    rows = [
        y for _, y in batches_of(TOKENS.__getitem__, np.arange(40), batch=15, steps=8)
    ]
    counts = np.bincount(np.concatenate(rows), minlength=40)
    assert counts.min() == counts.max() == 3


def test_a_head_finds_what_the_tokens_hold():
    """The class is the sign of one channel of one token out of six: attention can tell."""
    rng = np.random.default_rng(1)
    tokens = 0.5 * rng.standard_normal((400, 6, 16)).astype(np.float32)
    labels = rng.integers(0, 2, 400)
    where = rng.integers(0, 6, 400)
    tokens[np.arange(400), where, 0] += 4
    tokens[np.arange(400), where, 1] += 3 * (2 * labels - 1)
    head, steps = AttentiveHead(2, depth=1, heads=4), 150
    grid = Grid((3e-3, 1e-5), (0.01,), (0,))
    batches = batches_of(tokens.__getitem__, labels[:300], batch=50, steps=steps)
    params = fit_heads(head, batches, settings=grid.settings(), steps=steps)
    right = (outputs_of(head, params, tokens[300:]).argmax(-1) == labels[300:]).mean(1)
    assert right[0] > 0.95 > right[1]


def test_heads_are_trained_in_groups_that_fit():
    head = LinearHead(3)  # 16 * 3 + 3 = 51 parameters, 16 bytes each
    assert heads_at_once(head, TOKENS, 1e-9 * 16 * 51 * 5) == 5
    assert heads_at_once(head, TOKENS, 1e-9) == 1
