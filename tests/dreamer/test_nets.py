"""Sizes and layers of DreamerV3, compared with published counts and plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.dreamer import network
from core.agents.spaces import Space
from core.nn import convolutions
from core.parallel.layouts import unbox
from dreamer import behavior, flops, rssm, scan, update, world_model
from dreamer.layers import product
from dreamer.rssm import Latent, Rssm, noise

IMAGE = {"image": Space((64, 64, 3), "uint8")}
SEVENTEEN = {"action": Space((), "int32", 17)}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(unbox(tree)))


# Trainable parameters without the slow critic, and TFLOP of an update of 16 x 64 steps.
PUBLISHED = {
    "1m": (687_875, 0.11),
    "12m": (10_498_259, 1.40),
    "25m": (23_495_475, 3.05),
    "50m": (41_658_259, 5.33),
    "100m": (93_480_531, 11.8),
    "200m": (165_965_075, 20.8),
    "400m": (372_920_979, 46.4),
}


def networks(size, spaces, actions):
    """World model, behaviour, and the shapes of their parameters by network."""
    row = network(size)
    model = world_model.make_world_model(spaces, actions, **row)
    heads = behavior.make_behavior(model.actions, units=row["units"])
    init = update.make_init(model, heads, batch=1, length=2)
    return model, heads, jax.eval_shape(init, jax.random.key(0)).params


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_and_operations_are_those_published(size):
    model, heads, params = networks(size, IMAGE, SEVENTEEN)
    parameters, tflop = PUBLISHED[size]
    assert count(params) == parameters
    found = flops.update(model, heads, batch=16, length=64) / 1e12
    np.testing.assert_allclose(found, tflop, rtol=0.01 if size != "1m" else 0.03)


def test_networks_are_as_large_as_published():
    params = networks("12m", IMAGE, SEVENTEEN)[2]
    heads = {
        "reward": 721_407,
        "continue": 656_129,
        "critic": 853_503,
        "actor": 792_337,
    }
    assert {k: count(params[k]) for k in heads} == heads


GRAY = {"image": Space((96, 96, 1), "uint8")}
EIGHTEEN = {"action": Space((), "int32", 18)}
WALKER = {
    k: Space((n,)) for k, n in (("height", 1), ("orientations", 14), ("velocity", 9))
}


@pytest.mark.parametrize(
    ("size", "spaces", "actions", "parameters"),
    [
        ("1m", GRAY, EIGHTEEN, 769_762),
        ("12m", GRAY, EIGHTEEN, 11_808_850),
        ("200m", GRAY, EIGHTEEN, 186_936_082),
        ("1m", WALKER, {"action": Space((6,))}, 640_867),
        ("12m", WALKER, {"action": Space((6,))}, 9_738_019),
        ("200m", WALKER, {"action": Space((6,))}, 153_769_507),
    ],
)
def test_parameters_for_other_observations(size, spaces, actions, parameters):
    assert count(networks(size, spaces, actions)[2]) == parameters


@pytest.mark.parametrize(("size", "channels"), [(4, 3), (6, 8)])
def test_a_doubling_convolution_is_its_two_steps_in_turn(size, channels):
    x, kernel = normal(0, 2, size, size, channels), normal(1, 5, 5, channels, 7)
    slow = convolutions.conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), kernel)
    np.testing.assert_allclose(convolutions.upsample_conv(x, kernel), slow, atol=2e-5)


def test_a_halving_convolution_is_its_two_steps_in_turn():
    x, kernel = normal(0, 2, 8, 8, 3), normal(1, 5, 5, 3, 7)
    slow = convolutions.conv(x, kernel).reshape(2, 4, 2, 4, 2, 7).max((2, 4))
    np.testing.assert_allclose(convolutions.conv_pool(x, kernel), slow, atol=2e-5)
    np.testing.assert_allclose(
        convolutions.pool(convolutions.conv(x, kernel)), slow, atol=2e-5
    )


def test_a_maximum_that_ties_shares_its_gradient():
    x = np.random.default_rng(0).integers(0, 3, (2, 4, 6, 5)).astype(np.float32)
    windows = lambda x: x.reshape(2, 2, 2, 3, 2, 5)  # noqa: E731
    dy = normal(1, 2, 2, 3, 5)
    most, back = jax.vjp(convolutions.pool, x)
    np.testing.assert_array_equal(most, windows(x).max((2, 4)))
    ties = windows(x) == windows(x).max((2, 4), keepdims=True)
    share = dy[:, :, None, :, None] * ties / ties.sum((2, 4), keepdims=True)
    assert set(ties.sum((2, 4)).ravel()) == {1, 2, 3, 4}
    np.testing.assert_allclose(windows(back(dy)[0]), share, rtol=1e-6)


def test_gradients_of_a_convolution_in_pieces(monkeypatch):
    monkeypatch.setattr(convolutions, "PIXELS", 40)  # of 5 x 16: pieces of 3 and 2 maps
    x, kernel, dy = normal(0, 5, 4, 4, 3), normal(1, 5, 5, 3, 7), normal(2, 5, 4, 4, 7)
    found = jax.jit(lambda *a: jax.vjp(convolutions.conv, *a)[1](dy))(x, kernel)
    plain = jax.vjp(lambda x, w: convolutions.strided(x, w, stride=1), x, kernel)[1](dy)
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_block_products_are_one_matrix_with_zeros():
    x, kernel = normal(0, 3, 12), normal(1, 4, 3, 5)
    dense = np.zeros((12, 20), np.float32)
    for g in range(4):
        dense[3 * g : 3 * g + 3, 5 * g : 5 * g + 5] = kernel[g]
    np.testing.assert_allclose(product(x, kernel), x @ dense, atol=1e-5)


def small_rssm():
    return Rssm(embed=10, action=3, deter=16, hidden=8, stoch=4, classes=6, blocks=4)


def sequence(model, T=5, B=2):
    rng = np.random.default_rng(0)
    firsts = np.zeros((T, B), bool)
    firsts[2, 1] = firsts[0, 0] = True
    return (
        normal(1, T, B, model.action),
        normal(2, T, B, model.embed),
        jnp.asarray(firsts),
        noise(jax.random.key(rng.integers(99)), (T, B, model.stoch, model.classes)),
    )


def some_latent(model, B=2):
    hot = jax.nn.one_hot(
        jnp.arange(B * model.stoch).reshape(B, -1) % model.classes, model.classes
    )
    return Latent(normal(5, B, model.deter), hot)


def gru_in_numpy(model, params, latent, action):
    """The memory one step on, with dense matrices in place of blocks."""
    p = jax.tree.map(np.asarray, params)
    D, G, U = model.deter, model.blocks, model.hidden
    o = D // G

    def norm_act(x, w):
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * w["scale"]
        return x / (1 + np.exp(-x))

    def linear(x, w):
        return x @ w["kernel"] + w["bias"]

    h, z = np.asarray(latent.deter), np.asarray(latent.stoch).reshape(len(action), -1)
    a = np.asarray(action)
    a = a / np.maximum(1, np.abs(a))
    pairs = ((h, "deter_in"), (z, "stoch_in"), (a, "action_in"))
    u = [norm_act(linear(x, p[f"layers_{k}"]), p[f"layers_{k}"]) for x, k in pairs]
    u = np.concatenate(u, -1)
    masked = np.zeros((D + 3 * U, D), np.float32)
    kernel = p["layers_hidden"]["kernel"]
    for g in range(G):
        masked[g * o : (g + 1) * o, g * o : (g + 1) * o] = kernel[g, :o]
        masked[D:, g * o : (g + 1) * o] = kernel[g, o:]
    x = np.concatenate([h, u], -1) @ masked + p["layers_hidden"]["bias"]
    x = norm_act(x, p["layers_hidden"])
    gates = np.zeros((3, len(a), D), np.float32)
    bias = p["layers_gru"]["bias"].reshape(G, 3, o)
    for g in range(G):
        y = x[:, g * o : (g + 1) * o] @ p["layers_gru"]["kernel"][g]
        for i in range(3):
            gates[i, :, g * o : (g + 1) * o] = y[:, i * o : (i + 1) * o] + bias[g, i]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    s = sigmoid(gates[2] - 1)
    return s * np.tanh(sigmoid(gates[0]) * gates[1]) + (1 - s) * h


def test_the_recurrent_core_is_a_dense_masked_gru():
    model = small_rssm()
    inputs, latent = sequence(model), some_latent(model)
    params = unbox(model.init(jax.random.key(0), latent, *inputs, method="observe"))
    params = jax.tree.map(lambda x: x + 0.1 * normal(3, *x.shape), params)
    states, _ = model.apply(params, latent, *inputs, method="observe")
    before = Latent(*(np.array(x) for x in latent))
    before.deter[0], before.stoch[0] = 0, 0  # row 0 begins an episode
    action = np.array(inputs[0][0])
    action[0] = 0
    expected = gru_in_numpy(model, params["params"], before, action)
    np.testing.assert_allclose(states.deter[0], expected, atol=2e-6)


def test_weight_gradients_after_the_scan_are_those_within(monkeypatch):
    model = small_rssm()
    inputs, latent = sequence(model), some_latent(model)
    params = unbox(model.init(jax.random.key(0), latent, *inputs, method="observe"))

    def gradients(params, latent, *inputs):
        def loss(*x):
            states, logp = model.apply(*x, method="observe")
            x = states.features()
            return (x * normal(7, *x.shape)).sum() + (
                logp * normal(8, *logp.shape)
            ).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(params, latent, *inputs)

    ours = gradients(params, latent, *inputs)
    monkeypatch.setattr(rssm, "scan", scan.scan.fun)
    plain = gradients(params, latent, *inputs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * max(1, np.abs(b).max()))


def test_one_scan_is_steps_in_turn_and_episodes_are_apart():
    model = small_rssm()
    actions, embeds, firsts, gumbel = sequence(model)
    latent = some_latent(model)
    params = unbox(
        model.init(
            jax.random.key(0), latent, actions, embeds, firsts, gumbel, method="observe"
        )
    )
    run = jax.jit(lambda *x: model.apply(params, *x, method="observe"))
    whole, logp = run(latent, actions, embeds, firsts, gumbel)
    now = latent
    for t in range(len(actions)):
        one = slice(t, t + 1)
        out, _ = run(now, actions[one], embeds[one], firsts[one], gumbel[one])
        now = jax.tree.map(lambda x: x[0], out)
        np.testing.assert_allclose(now.deter, whole.deter[t], atol=1e-6)
    # Nothing before the episode that begins at step 2 of row 1 matters.
    other = run(
        Latent(latent.deter + 1, latent.stoch),
        actions.at[:3, 1].add(1.0),
        embeds.at[:2, 1].add(1.0),
        firsts,
        gumbel,
    )[0]
    np.testing.assert_array_equal(other.deter[2:, 1], whole.deter[2:, 1])
    assert np.abs(other.deter[:2, 1] - whole.deter[:2, 1]).max() > 0.01
    # Always first: memory is that of the empty state, for all observations.
    always = run(latent, actions, embeds, jnp.ones_like(firsts), gumbel)[0].deter
    np.testing.assert_allclose(
        always, np.broadcast_to(always[:1, :1], always.shape), atol=1e-6
    )
