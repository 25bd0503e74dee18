"""Percentiles, gradient routes, updates and the optimizer of DreamerV3 in plain numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import optim
from core.agents import action_distributions
from core.agents.spaces import Space, sorted_spaces
from core.parallel.layouts import unbox
from dreamer import behavior, update, world_model
from dreamer.rssm import Latent

SPACES = {"image": Space((48, 48, 3), "uint8"), "state": Space((3,))}
ACTIONS = {"push": Space((2,))}
B, T, D, S = 2, 5, 16, 4


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def networks():
    sizes = {"deter": D, "hidden": 8, "classes": 4, "depth": 2, "units": 8}
    model = world_model.make_world_model(SPACES, ACTIONS, stoch=S, **sizes)
    head = behavior.make_behavior(model.actions, units=8, horizon=3)
    init = update.make_init(model, head, batch=B, length=T)
    return model, head, jax.jit(lambda key: unbox(init(key)))(jax.random.key(0))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    none = np.zeros((B, T), bool)
    return {
        "image": rng.integers(0, 256, (B, T, 48, 48, 3)).astype(np.uint8),
        "state": normal(1, B, T, 3),
        "action": normal(2, B, T, 2),
        "reward": normal(3, B, T),
        "is_first": none,
        "is_last": none,
        "is_terminal": none,
        "deter": np.zeros((B, D), np.float32),
        "stoch": np.zeros((B, S), np.uint8),
        "goes_on": np.zeros(B, bool),
    }


def some_states():
    """States of the world model, any values: [T, B, ...]."""
    classes = np.random.default_rng(5).integers(0, 4, (T, B, S))
    return Latent(normal(4, T, B, D), np.eye(4, dtype=np.float32)[classes])


def test_the_range_of_returns_follows_its_percentiles():
    seen, (low, high) = behavior.no_range(), (0.0, 0.0)
    for i in range(50):
        returns = 10 * normal(i, 15, 40) + 3
        seen = behavior.update_range(seen, returns)
        low = 0.99 * low + 0.01 * np.percentile(returns, 5)
        high = 0.99 * high + 0.01 * np.percentile(returns, 95)
    np.testing.assert_allclose([seen.low, seen.high], [low, high], rtol=1e-4)


def test_metrics_of_a_first_update(networks):
    model, head, state = networks
    loss = update.make_loss(model, head)
    prepared = update.add_random(model, batch(), state.seen, jax.random.key(0))
    total, ((metrics, _), states) = jax.jit(loss)(
        state.params, (state.slow, state.range), prepared
    )
    assert states.deter.shape == (B, T, D) and np.isfinite(total)
    np.testing.assert_allclose(metrics["loss_reward"], np.log(255), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_replay"], 2 * np.log(255), rtol=1e-5)
    assert metrics["return"] == 0 and metrics["value"] == 0
    assert metrics["loss_dyn"] >= 1 and metrics["loss_rep"] >= 1
    assert 0.4 < metrics["loss_continue"] < 1.3


ROUTES = {
    "actor": {"actor"},
    "critic": {"critic"},
    "replay": {"critic", "encoder", "rssm"},
    "image": {"encoder", "rssm", "decoder"},
    "state": {"encoder", "rssm", "decoder"},
    "reward": {"encoder", "rssm", "reward"},
    "continue": {"encoder", "rssm", "continue"},
    "rep": {"encoder", "rssm"},
}


@pytest.fixture(scope="module")
def gradients(networks):
    """Name of a loss -> its gradients; one program, in which the others weigh 0."""
    model, head, state = networks
    # Heads that begin with zeros would give no advantage to learn from.
    params = jax.tree.map(lambda x: x + 0.03 * normal(1, *x.shape), state.params)
    start = update.first_latent(model, batch(), state.seen)

    def total(params, weights):
        keys = jax.random.split(jax.random.key(0))
        gumbel = world_model.noise_of(model, batch(), keys[0])
        found, states, _ = world_model.losses(model, params, start, batch(), gumbel)
        found |= behavior.losses(
            model, head, params, state.slow, state.range, states, batch(), keys[1]
        )[0]
        return sum(weights[name] * found[name].mean() for name in ROUTES)

    run = jax.jit(jax.grad(total))
    return lambda name: run(params, {k: float(k == name) for k in ROUTES})


@pytest.mark.parametrize("name", ROUTES)
def test_gradients_go_where_they_should_and_nowhere_else(gradients, name):
    grads = gradients(name)
    moved = {k for k, g in grads.items() if any(x.any() for x in jax.tree.leaves(g))}
    assert moved == ROUTES[name]


def test_imagination_may_start_at_the_last_steps_only(networks):
    model, head, state = networks
    key, states = jax.random.key(0), some_states()
    rest = state.params, state.slow, state.range

    def found(head, cut):
        given = {k: x[:, -cut:] for k, x in batch().items() if x.ndim > 1}
        part = jax.tree.map(lambda x: x[-cut:], states)
        losses = jax.jit(functools.partial(behavior.losses, model, head))
        return losses(*rest, part, given, key)

    few = found(head._replace(last=2), T)
    jax.tree.map(np.testing.assert_allclose, few, found(head, 2))
    assert few[0]["actor"].shape == (head.horizon, 2 * B)


def test_a_batch_continues_the_last_one_where_goes_on_is_set(networks):
    model, _, state = networks
    seen = Latent(jnp.asarray(normal(0, B, T, D)), jnp.full((B, T, S), 3, jnp.uint8))
    given = batch() | {"deter": normal(1, B, D), "stoch": np.ones((B, S), np.uint8)}
    given["goes_on"] = np.array([True, False])
    start = update.first_latent(model, given, seen)
    np.testing.assert_array_equal(start.deter[0], seen.deter[0, -1])
    np.testing.assert_array_equal(start.deter[1], given["deter"][1])
    np.testing.assert_array_equal(start.stoch.argmax(-1), [[3] * S, [1] * S])
    states = jax.tree.map(lambda x: x.swapaxes(0, 1), update.unpack(model, *seen))
    packed = update.pack(states)
    jax.tree.map(np.testing.assert_array_equal, packed, seen)


def test_updates_begin_with_warmup_and_skip_bad_batches(networks):
    model, head, state = networks
    lr = optim.make_schedule(
        "warmup_constant", steps=1, start=0.0, peak=4e-5, warmup_steps=1000
    )
    numbers = {"agc": 0.3, "betas": (0.9, 0.999), "eps": 1e-20}
    numbers |= {"accumulate": 1, "seed": 0}
    step = jax.jit(update.make_step(lambda key: state, model, head, lr=lr, **numbers))
    first, metrics = step(state, batch())
    jax.tree.map(np.testing.assert_array_equal, first.params, state.params)
    assert metrics["lr"] == 0
    second, metrics = step(first, batch(1))
    np.testing.assert_allclose(metrics["lr"], 4e-8, rtol=1e-6)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params, second.params)
    assert max(jax.tree.leaves(moved)) > 0
    third, metrics = step(
        second, batch() | {"reward": np.full((B, T), np.nan, np.float32)}
    )
    assert metrics["bad_steps"] == 1 and third.step == 3
    same = lambda a, b: np.testing.assert_array_equal(a, b)  # noqa: E731
    jax.tree.map(same, (third.params, third.seen), (second.params, second.seen))


def test_laprop_is_its_written_out_form():
    rng = np.random.default_rng(0)
    params = {"w": normal(0, 3, 4), "b": np.zeros(4, np.float32)}
    p = {k: x.astype(np.float64) for k, x in params.items()}
    opt = optim.laprop_moments(params)
    square, mean = ({k: np.zeros_like(x) for k, x in p.items()} for _ in range(2))
    for t in range(1, 6):
        size = 100.0 if t == 3 else 0.1  # one that is clipped
        grads = {
            k: (size * rng.standard_normal(x.shape)).astype(np.float32)
            for k, x in p.items()
        }
        params, opt = optim.laprop(grads, opt, params, lr=0.01)
        for k in p:
            limit = 0.3 * max(1e-3, np.linalg.norm(p[k]))
            g = grads[k] * min(1, limit / np.linalg.norm(grads[k]))
            square[k] = 0.999 * square[k] + 0.001 * g**2
            scaled = g / (np.sqrt(square[k] / (1 - 0.999**t)) + 1e-20)
            mean[k] = 0.9 * mean[k] + 0.1 * scaled
            p[k] = p[k] - 0.01 * mean[k] / (1 - 0.9**t)
    for k in p:
        np.testing.assert_allclose(params[k], p[k], rtol=1e-4, atol=1e-6)


def test_the_actor_is_clipped_by_published_tensor():
    """Mean, deviation and each discrete action have a norm of their own, not one together."""
    spaces = sorted_spaces({"push": Space((2,)), "key": Space((), "int32", 3)})
    assert action_distributions.tensor_ends(spaces) == (3, 5)  # key, mean, deviation
    sizes = {"kernel": (8, 7), "bias": (7,)}
    out = {k: 0.1 * normal(i, *shape) for i, (k, shape) in enumerate(sizes.items())}
    grads = {k: normal(7, *x.shape) for k, x in out.items()}
    for k in grads:
        grads[k][..., 3:5] *= 100  # of the mean alone
    cuts = {("actor", "out", k): (3, 5) for k in out}
    tree = {"actor": {"out": out}, "critic": {"out": out}}
    twice = {"actor": {"out": grads}, "critic": {"out": grads}}
    moments = optim.laprop_moments(tree)
    _, found = optim.laprop(twice, moments, tree, lr=0.01, cuts=cuts)

    def clipped(g, p):
        limit = 0.3 * max(1e-3, np.linalg.norm(p))
        return g * min(1, limit / np.linalg.norm(g))

    for k, p in out.items():
        parts = [slice(0, 3), slice(3, 5), slice(5, 7)]
        expected = [clipped(grads[k][..., s], p[..., s]) for s in parts]
        square = 0.001 * np.square(np.concatenate(expected, -1))
        actor, critic = (found.square[x]["out"][k] for x in ("actor", "critic"))
        np.testing.assert_allclose(actor, square, rtol=1e-4)
        whole = 0.001 * np.square(clipped(grads[k], p))
        np.testing.assert_allclose(critic, whole, rtol=1e-4)


def test_an_update_clips_the_actor_by_tensor(networks, monkeypatch):
    model, head, state = networks
    seen = {}
    monkeypatch.setattr(
        optim, "laprop", lambda *args, **kw: seen.update(kw) or args[2:0]
    )
    numbers = {"agc": 0.3, "betas": (0.9, 0.999), "eps": 1e-20, "accumulate": 1}
    step = update.make_step(
        lambda key: state, model, head, lr=lambda s: 0.0, seed=0, **numbers
    )
    with pytest.raises(ValueError):  # laprop has returned nothing
        jax.eval_shape(step, state, batch())
    assert seen["cuts"] == {("actor", "out", k): (2,) for k in ("kernel", "bias")}


def test_the_first_weight_of_2024_is_that_the_episode_goes_on(networks):
    """1 - is_terminal, without the discount 1 - 1/333."""
    model, head, state = networks
    given = batch() | {"is_terminal": np.arange(B * T).reshape(B, T) % 3 == 0}
    rest = state.params, state.slow, state.range, some_states(), given
    head = head._replace(true_start=True)
    losses = jax.jit(functools.partial(behavior.losses, model, head))
    found = losses(*rest, jax.random.key(0))[0]["critic"]
    ended = given["is_terminal"].T.reshape(-1)
    # Values and rewards are 0: the critic's loss is 2 ln 255 times the weight.
    expected = np.where(ended, 0, 2 * np.log(255))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
