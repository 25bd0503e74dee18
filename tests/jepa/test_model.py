"""V-JEPA's networks: positions, sizes, padding, segments and token order."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.nn.positions import halve, rope_tables, rotate, sincos
from core.nn.token_order import take
from core.parallel.layouts import unbox
from jepa.nets.model import SIZES, Encoder, Predictor, coordinates, encoder_size

GRID = (3, 2, 4)
N = math.prod(GRID)


def turn(x, position, variant):
    """One head's channels [d] at (time, row, column), loop by loop as defined."""
    k = 2 * (len(x) // 3 // 2)
    y = np.array(x, np.float64)
    for axis in range(3):
        for c in range(k):
            j = c % (k // 2) if variant == "tiled" else c // 2
            angle = position[axis] * 10_000 ** (-j / (k / 2))
            here = axis * k + c
            partner = -x[here + 1] if c % 2 == 0 else x[here - 1]
            y[here] = x[here] * np.cos(angle) + partner * np.sin(angle)
    return y


@pytest.mark.parametrize("variant", ["tiled", "paired"])
@pytest.mark.parametrize("head_dim", [12, 16, 24, 64, 80, 88])
def test_rope_turns_every_unit_vector_as_defined(variant, head_dim):
    positions = np.array([[0, 0, 0], [3, 2, 1], [7, 15, 11]])
    unit = np.eye(head_dim, dtype=np.float32)
    order = np.concatenate([np.arange(0, head_dim, 2), np.arange(1, head_dim, 2)])
    np.testing.assert_array_equal(halve(unit), unit[:, order])
    cos, sin = rope_tables(positions[None], head_dim=head_dim, variant=variant)
    x = np.repeat(unit[None, None, :, order], len(positions), 1)  # units are heads
    ours = np.asarray(rotate(jnp.asarray(x), cos, sin))[0]
    for i, position in enumerate(positions):
        theirs = np.stack([turn(row, position, variant)[order] for row in unit])
        np.testing.assert_allclose(ours[i], theirs, atol=2e-6)


def test_only_paired_rope_keeps_lengths():
    x = jax.random.normal(jax.random.key(0), (1, 5, 1, 64))
    where = np.arange(15).reshape(1, 5, 3)
    change = {}
    for variant in ("tiled", "paired"):
        tables = rope_tables(where, head_dim=64, variant=variant)
        length = jnp.linalg.norm(rotate(x, *tables), axis=-1)
        change[variant] = jnp.abs(length / jnp.linalg.norm(x, axis=-1) - 1).max()
    assert change["paired"] < 1e-6 < 1e-2 < change["tiled"]


@pytest.mark.parametrize(("width", "axis"), [(1024, 342), (1280, 428), (384, 128)])
def test_sincos_table_is_as_defined(width, axis):
    where = np.stack(np.unravel_index(np.arange(N), GRID), -1)
    table = np.zeros((N, 3 * axis))
    for n in range(N):
        for a in range(3):
            for j in range(axis // 2):
                angle = where[n, a] / 10_000 ** (j / (axis / 2))
                table[n, a * axis + j] = math.sin(angle)
                table[n, a * axis + axis // 2 + j] = math.cos(angle)
    np.testing.assert_allclose(sincos(where, width), table[:, :width], atol=1e-7)


def test_coordinates_invert_raster_order():
    where = np.stack(np.unravel_index(np.arange(N), GRID), -1)
    np.testing.assert_array_equal(coordinates(jnp.arange(N), GRID), where)


def count(module, *args, **kwargs):
    """Parameters of a module, without making any."""
    init = functools.partial(module.init, **kwargs)
    shapes = unbox(jax.eval_shape(init, jax.random.key(0), *args))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def stack_size(D, L, F):
    """Values in L blocks: four D x D maps, two norms, an MLP; then the final norm."""
    return L * (4 * (D * D + D) + 2 * 2 * D + 2 * D * F + F + D) + 2 * D


# G is the 2B model of V-JEPA 2.1 without what 2.1 adds at input and output.
MILLIONS = {
    "T": 5.63, "S": 21.9, "B": 86.2, "L": 303.9, "H": 631.6, "g": 1012.2, "G": 1843.9,
}  # fmt: skip


@pytest.mark.parametrize("size", MILLIONS)
def test_encoder_sizes(size):
    D, L, heads, F = SIZES[size]
    encoder = Encoder(**encoder_size(size), remat="block")
    values = count(encoder, jnp.zeros((1, N, 1536)), grid=GRID)
    assert values == 1536 * D + D + stack_size(D, L, F)
    digits = 2 if size == "T" else 1
    assert round(values / 1e6, digits) == MILLIONS[size]
    assert D % heads == 0


@pytest.mark.parametrize(("size", "millions"), [("L", 22.1), ("H", 22.3), ("g", 22.4)])
def test_predictor_sizes(size, millions):
    D, P = SIZES[size][0], 384
    predictor = Predictor(P, 12, 12, 4 * P, out=D, mask_tokens=10, remat="block")
    index = jnp.zeros((1, 1), jnp.int32)
    features = jnp.zeros((1, 1, D))
    values = count(predictor, features, index, index, grid=GRID, use=(0,))
    assert values == stack_size(P, 12, 4 * P) + D * P + P + 10 * P + P * D + D
    assert round(values / 1e6, 1) == millions


def randomize(params, seed):
    """Every value random, so that each bias, norm and mask token matters."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), params
    )


@functools.cache
def networks(positions="tiled"):
    """(encode, predict): a tiny encoder and predictor with random weights, compiled."""
    encoder = Encoder(36, 2, 3, 72, patch=(1, 2, 2), positions=positions)
    predictor = Predictor(24, 2, 2, 48, out=36, mask_tokens=2, positions=positions)
    index = jnp.zeros((1, 1), jnp.int32)
    key, patch, feature = (
        jax.random.key(0),
        jnp.zeros((1, 1, 12)),
        jnp.zeros((1, 1, 36)),
    )
    init = functools.partial(encoder.init, grid=GRID)
    p = randomize(unbox(jax.eval_shape(init, key, patch, index)), 1)
    init = functools.partial(predictor.init, grid=GRID, use=(0,))
    q = randomize(unbox(jax.eval_shape(init, key, feature, index, index)), 2)

    def encode(*args, **kwargs):
        return encoder.apply(p, *args, grid=GRID, **kwargs)

    def predict(*args, use=(0,), **kwargs):
        return predictor.apply(q, *args, grid=GRID, use=use, **kwargs)

    sizes = ("context_sizes", "target_sizes")
    return (
        jax.jit(encode, static_argnames="segments"),
        jax.jit(predict, static_argnames=("use", *sizes)),
    )


def rows(seed, size):
    """Two rows of distinct token indices."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(
        np.stack([rng.permutation(N)[:size] for _ in range(2)]), jnp.int32
    )


def patches():
    return np.random.default_rng(3).standard_normal((2, N, 12)).astype(np.float32)


def pad(x, more, value=7):
    """Rows with `more` wrong entries at the end."""
    width = [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, width, constant_values=value)


same = functools.partial(np.testing.assert_allclose, atol=1e-5)
BOTH = pytest.mark.parametrize("positions", ["tiled", "sincos"])


@BOTH
def test_padding_changes_no_valid_token(positions):
    encode, predict = networks(positions)
    context, target = rows(0, 9), rows(1, 5)
    seen = take(patches(), context)
    plain = encode(seen, context)
    keep, ask = (
        pad(jnp.ones((2, 9), bool), 4, False),
        pad(jnp.ones((2, 5), bool), 3, False),
    )
    padded = encode(pad(seen, 4), pad(context, 4), valid=keep)
    same(padded[:, :9], plain)
    guess = predict(
        padded, pad(context, 4), pad(target, 3), context_valid=keep, target_valid=ask
    )
    same(guess[:, :5], predict(plain, context, target))


@BOTH
def test_segments_equal_separate_passes(positions):
    encode, predict = networks(positions)
    context, target = (rows(0, 9), rows(1, 4)), (rows(2, 5), rows(3, 7))
    both = jnp.concatenate(context, 1)
    features = encode(take(patches(), both), both, segments=(9, 4))
    guess = predict(
        features, both, jnp.concatenate(target, 1), use=(0, 1),
        context_sizes=(9, 4), target_sizes=(5, 7),
    )  # fmt: skip
    parts = [encode(take(patches(), index), index) for index in context]
    same(features, jnp.concatenate(parts, 1))
    guesses = [
        predict(part, c, t, use=(i,))
        for i, (part, c, t) in enumerate(zip(parts, context, target, strict=True))
    ]
    same(guess, jnp.concatenate(guesses, 1))


@BOTH
def test_segments_with_padding_equal_separate_passes(positions):
    encode, _ = networks(positions)
    one, two = rows(0, 9), rows(1, 4)
    index = jnp.concatenate([pad(one, 2), two], 1)
    valid = jnp.arange(15) < 9
    valid = jnp.broadcast_to(valid | (jnp.arange(15) >= 11), (2, 15))
    features = encode(take(patches(), index), index, valid=valid, segments=(11, 4))
    same(features[:, :9], encode(take(patches(), one), one))
    same(features[:, 11:], encode(take(patches(), two), two))


@BOTH
def test_order_of_tokens_does_not_matter(positions):
    encode, predict = networks(positions)
    context, target = rows(0, 9), rows(1, 6)
    order, others = (
        np.random.default_rng(5).permutation(9),
        np.array([3, 0, 5, 1, 4, 2]),
    )
    features = encode(take(patches(), context), context)
    moved = encode(take(patches(), context[:, order]), context[:, order])
    same(moved, features[:, order])
    guess = predict(features, context, target)
    same(predict(moved, context[:, order], target[:, others]), guess[:, others])


def test_positions_and_mask_tokens_matter():
    encode, predict = networks()
    context, target = rows(0, 9), rows(1, 6)
    features = encode(take(patches(), context), context)
    guess = predict(features, context, target)
    others = (
        predict(features, context, N - 1 - target),
        predict(features, N - 1 - context, target),
        predict(features, context, target, use=(1,)),
    )
    for other in others:
        assert jnp.abs(other - guess).max() > 1e-2
