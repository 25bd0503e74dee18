"""Sizes and layers of DreamerV3 against published counts and plain arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.sharding import unbox
from dreamer import convs, rssm, scan, world_model
from dreamer.layers import product
from dreamer.rssm import Latent, Rssm, noise
from dreamer.spaces import Space

IMAGE = {"image": Space((64, 64, 3), "uint8")}
SEVENTEEN = {"action": Space((), "int32", 17)}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(unbox(tree)))


def test_sizes_of_the_published_12m():
    model = world_model.make_world_model(
        IMAGE, SEVENTEEN, deter=2048, hidden=256, classes=16, depth=16, units=256
    )
    params = jax.eval_shape(lambda: world_model.init(model, jax.random.key(0)))
    found = {k: count(v) for k, v in params.items()}
    assert found["reward"] == 721_407 and found["continue"] == 656_129
    assert found["encoder"] + found["rssm"] + found["decoder"] == (
        10_498_259 - 721_407 - 656_129 - 853_503 - 792_337
    )


@pytest.mark.parametrize(("size", "channels"), [(4, 3), (6, 8)])
def test_a_doubling_convolution_is_its_two_steps_in_turn(size, channels):
    x, kernel = normal(0, 2, size, size, channels), normal(1, 5, 5, channels, 7)
    slow = convs.conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), kernel)
    np.testing.assert_allclose(convs.upsample_conv(x, kernel), slow, atol=2e-5)


def test_a_halving_convolution_is_its_two_steps_in_turn():
    x, kernel = normal(0, 2, 8, 8, 3), normal(1, 5, 5, 3, 7)
    slow = convs.conv(x, kernel).reshape(2, 4, 2, 4, 2, 7).max((2, 4))
    np.testing.assert_allclose(convs.conv_pool(x, kernel), slow, atol=2e-5)
    np.testing.assert_allclose(convs.pool(convs.conv(x, kernel)), slow, atol=2e-5)


def test_block_products_are_one_matrix_with_zeros():
    x, kernel = normal(0, 3, 12), normal(1, 4, 3, 5)
    dense = np.zeros((12, 20), np.float32)
    for g in range(4):
        dense[3 * g : 3 * g + 3, 5 * g : 5 * g + 5] = kernel[g]
    np.testing.assert_allclose(product(x, kernel), x @ dense, atol=1e-5)


def small_rssm():
    return Rssm(embed=10, action=3, deter=16, hidden=8, stoch=4, classes=6, blocks=4)


def story(model, T=5, B=2):
    rng = np.random.default_rng(0)
    firsts = np.zeros((T, B), bool)
    firsts[2, 1] = firsts[0, 0] = True
    return (
        normal(1, T, B, model.action),
        normal(2, T, B, model.embed),
        jnp.asarray(firsts),
        noise(jax.random.key(rng.integers(99)), (T, B, model.stoch, model.classes)),
    )


def begun(model, B=2):
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
    story_, latent = story(model), begun(model)
    params = unbox(model.init(jax.random.key(0), latent, *story_, method="observe"))
    params = jax.tree.map(lambda x: x + 0.1 * normal(3, *x.shape), params)
    states, _ = model.apply(params, latent, *story_, method="observe")
    before = Latent(*(np.array(x) for x in latent))
    before.deter[0], before.stoch[0] = 0, 0  # row 0 begins an episode
    action = np.array(story_[0][0])
    action[0] = 0
    expected = gru_in_numpy(model, params["params"], before, action)
    np.testing.assert_allclose(states.deter[0], expected, atol=2e-6)


def test_weight_gradients_after_the_scan_are_those_within(monkeypatch):
    model = small_rssm()
    story_, latent = story(model), begun(model)
    params = unbox(model.init(jax.random.key(0), latent, *story_, method="observe"))

    def gradients(params, latent, *story_):
        def loss(*x):
            states, logp = model.apply(*x, method="observe")
            x = states.features()
            return (x * normal(7, *x.shape)).sum() + (
                logp * normal(8, *logp.shape)
            ).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(params, latent, *story_)

    ours = gradients(params, latent, *story_)
    monkeypatch.setattr(rssm, "scan", scan.scan.fun)
    plain = gradients(params, latent, *story_)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * max(1, np.abs(b).max()))


def test_one_scan_is_steps_in_turn_and_episodes_are_apart():
    model = small_rssm()
    actions, embeds, firsts, gumbel = story(model)
    latent = begun(model)
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
    # What came before the episode that begins at step 2 of row 1 counts for nothing.
    other = run(
        Latent(latent.deter + 1, latent.stoch),
        actions.at[:3, 1].add(1.0),
        embeds.at[:2, 1].add(1.0),
        firsts,
        gumbel,
    )[0]
    np.testing.assert_array_equal(other.deter[2:, 1], whole.deter[2:, 1])
    assert np.abs(other.deter[:2, 1] - whole.deter[:2, 1]).max() > 0.01
    # Always first: memory is that of the empty state, whatever was seen.
    always = run(latent, actions, embeds, jnp.ones_like(firsts), gumbel)[0].deter
    np.testing.assert_allclose(
        always, np.broadcast_to(always[:1, :1], always.shape), atol=1e-6
    )
