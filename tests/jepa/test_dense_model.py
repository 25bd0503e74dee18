"""Networks of V-JEPA 2.1 and 2-AC: published sizes, levels, positions, causality."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.parallel.layouts import unbox
from jepa.nets.dense_model import DenseEncoder, DensePredictor, level_blocks
from jepa.nets.model import SIZES, encoder_size, positional
from jepa.worlds.ac_model import ActionPredictor, step_positions


def count(module, *args, **kwargs):
    """Parameters of a module, without making any; remat "block" traces one block."""
    init = functools.partial(module.init, **kwargs)
    shapes = unbox(jax.eval_shape(init, jax.random.key(0), *args))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def blocks(D, L, F):
    """Values in L blocks: four D x D maps, two norms, an MLP."""
    return L * (4 * (D * D + D) + 2 * 2 * D + 2 * D * F + F + D)


def linear(a, b):
    return a * b + b


# Millions of the public encoders; T and S are those of the program's ablations.
MILLIONS = {"T": 5.78, "S": 22.2, "B": 86.8, "L": 304.7, "g": 1013.3, "G": 1845.2}


@pytest.mark.parametrize("size", MILLIONS)
def test_encoder_sizes(size):
    D, L, _, F = SIZES[size]
    encoder = DenseEncoder(**encoder_size(size), remat="block")
    values = count(encoder, jnp.zeros((1, 8, 1536)), grid=(2, 2, 2))
    embeds = linear(3 * 2 * 16 * 16, D) + linear(3 * 16 * 16, D)
    assert values == embeds + 2 * D + blocks(D, L, F) + 4 * 2 * D
    assert round(values / 1e6, 2 if size == "T" else 1) == MILLIONS[size]


@pytest.mark.parametrize(
    ("size", "depth", "levels", "out", "millions"),
    [
        ("L", 24, 4, 1024, 50.3),
        ("g", 24, 4, 1408, 55.4),
        ("G", 24, 4, 1664, 59.4),
        ("B", 12, 1, 1664, 22.9),  # distilled: G is the teacher
        ("L", 12, 1, 1664, 23.0),
    ],
)
def test_predictor_sizes(size, depth, levels, out, millions):
    D, P = SIZES[size][0], 384
    sizes = {
        "features": D,
        "out": out,
        "levels": levels,
        "mask_tokens": 8,
        "remat": "block",
    }
    index = jnp.zeros((1, 1), jnp.int32)
    features = jnp.zeros((1, 1, levels * D))
    values = count(
        DensePredictor(P, depth, 12, 4 * P, **sizes), features, index, index,
        grid=(2, 2, 2), use=(0,),
    )  # fmt: skip
    entry = linear(D, P) + (linear(levels * D, D) if levels > 1 else 0)
    around = (8 + 2) * P + 2 * P + 2 * linear(P, levels * out)
    assert values == entry + around + blocks(P, depth, 4 * P)
    assert round(values / 1e6, 1) == millions


def steps(module, T, N, widths, B=1):
    """Features, actions and states of T steps, all ones."""
    return [jnp.ones((B, T, *n)) for n in ((N, module.out), *((w,) for w in widths))]


def test_action_predictor_has_the_published_size():
    module = ActionPredictor(remat="block")
    values = count(module, *steps(module, 2, 4, (7, 7)), grid=(2, 2))
    D, W = 1408, 1024
    ends = 2 * linear(7, W) + linear(D, W) + linear(W, D) + 2 * W
    assert values == ends + blocks(W, 24, 4 * W)
    extrinsics = linear(6, W)  # in the public file, not used
    assert round((values + extrinsics) / 1e6, 1) == 305.2


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [
        (12, (2, 5, 8, 11)),
        (24, (5, 11, 17, 23)),
        (40, (9, 19, 29, 39)),
        (48, (11, 23, 37, 47)),
    ],
)
def test_levels_are_those_of_the_public_weights(depth, blocks):
    assert level_blocks(depth, 4) == blocks
    with pytest.raises(ValueError, match="levels is 5, but there are 4 blocks"):
        level_blocks(4, 5)


def test_positions_are_scaled_to_the_grid_of_256_pixels():
    options = {"positions": "paired", "width": 36, "heads": 3}

    def angles(grid, rope_grid):
        index = jnp.arange(math.prod(grid))
        _, (cos, _) = positional(index, grid, rope_grid=rope_grid, **options)
        return np.asarray(cos).reshape(*grid, 2, -1)

    np.testing.assert_array_equal(angles((2, 16, 16), 16), angles((2, 16, 16), 0))
    wide = angles((2, 31, 31), 16)  # every second cell falls on a cell of 16 x 16
    np.testing.assert_allclose(wide[:, ::2, ::2], angles((2, 16, 16), 0), atol=1e-5)
    assert np.isfinite(angles((1, 1, 3), 16)).all()


def test_actions_and_states_have_only_a_time():
    where = step_positions(2, (2, 3), 16).reshape(2, 2 + 6, 3)
    np.testing.assert_array_equal(where[:, :2], [[[t, 0, 0]] * 2 for t in range(2)])
    np.testing.assert_array_equal(where[1, 2:, 0], 1)
    np.testing.assert_allclose(where[0, 3], [0, 0, 16 / 3])
    np.testing.assert_allclose(where[0, 5], [0, 8, 0])


ARMS = ActionPredictor(
    out=24, width=28, depth=2, heads=2, hidden=40,
    embodiments=(("arm", 3, 4), ("rover", 2, 5)),
)  # fmt: skip


@pytest.fixture(scope="module")
def arm():
    """(predict, features, actions, states) with random weights, of the embodiment "arm"."""
    rng = np.random.default_rng(0)
    given = steps(ARMS, 3, 4, (3, 4))
    init = functools.partial(ARMS.init, grid=(2, 2), embodiment="arm")
    shapes = unbox(jax.eval_shape(init, jax.random.key(0), *given))
    params = jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes
    )
    predict = functools.partial(ARMS.apply, params, grid=(2, 2))
    inputs = [rng.standard_normal(x.shape).astype(np.float32) for x in given]
    return jax.jit(predict, static_argnames="embodiment"), *inputs


@pytest.mark.parametrize("which", range(3), ids=["features", "actions", "states"])
def test_no_prediction_sees_a_later_step(which, arm):
    predict, *inputs = arm
    before = predict(*inputs, embodiment="arm")
    inputs[which] = inputs[which].copy()
    inputs[which][:, 1] += 1.0
    gap = np.abs(predict(*inputs, embodiment="arm") - before).max((0, 2, 3))
    assert gap[0] == 0 and gap[1] > 1e-3 and gap[2] > 1e-4


def test_each_embodiment_has_maps_of_its_own(arm):
    predict, features, actions, states = arm
    rover = predict(features, actions[..., :2], np.ones((1, 3, 5)), embodiment="rover")
    assert rover.shape == features.shape
    for given, words in {
        ("legs", 3, 4): "embodiment is 'legs'; use one of arm, rover",
        ("arm", 2, 4): "actions have 2 values, expected the 3 of embodiment 'arm'",
        ("rover", 2, 4): "states have 4 values, expected the 5 of embodiment 'rover'",
    }.items():
        name, a, s = given
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(
                functools.partial(predict, embodiment=name), features,
                np.ones((1, 3, a)), np.ones((1, 3, s)),
            )  # fmt: skip
