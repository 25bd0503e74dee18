"""Distributions of DreamerV3 against closed forms and plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.agents import action_distributions
from core.agents.spaces import Space
from core.nn import distributions

REALS = np.array([0, 1e-6, 0.3, -0.3, 1, -17.5, 1234.5, -9e5, 4e8], np.float32)


def test_symlog_and_symexp_are_inverse():
    np.testing.assert_allclose(
        distributions.symexp(distributions.symlog(REALS)), REALS, rtol=5e-6
    )
    slope = jax.vmap(jax.grad(distributions.symlog))(jnp.asarray(REALS[1:]))
    np.testing.assert_allclose(slope, 1 / (1 + np.abs(REALS[1:])), rtol=1e-6)


def test_bins_equal_the_published_ones():
    bins = distributions.symexp_bins()
    assert bins.shape == (255,) and bins[127] == 0
    np.testing.assert_array_equal(bins, -bins[::-1])
    np.testing.assert_allclose(bins[128], 0.1706, atol=5e-5)
    np.testing.assert_allclose(bins[-1], 4.85e8, rtol=1e-3)


def test_the_mean_of_two_hot_weights_is_the_target():
    y = np.array([0, 0.05, -0.1706, 3.3, -77.7, 6e5, -6e5], np.float32)
    weights = np.asarray(distributions.two_hot(jnp.asarray(y)), np.float64)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert ((weights > 0).sum(-1) <= 2).all()
    np.testing.assert_allclose(
        weights @ distributions.symexp_bins(), y, rtol=2e-5, atol=1e-6
    )
    ends = distributions.two_hot(jnp.array([1e12, -1e12]))
    assert ends[0, -1] == 1 and ends[1, 0] == 1


def test_a_two_hot_head_of_equal_logits_is_zero_and_costs_ln_255():
    logits = jnp.zeros((3, 255))
    assert (distributions.two_hot_mean(logits) == 0).all()
    loss = distributions.two_hot_loss(logits, jnp.array([0.0, 4.0, -1e3]))
    np.testing.assert_allclose(loss, np.log(255), rtol=1e-6)


def test_the_two_hot_loss_pulls_towards_its_target():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((4, 255)), jnp.float32)
    y = jnp.array([0.4, -2.0, 30.0, 0.0])
    grad = jax.grad(lambda x: distributions.two_hot_loss(x, y).sum())(logits)
    expected = jax.nn.softmax(logits) - distributions.two_hot(y)
    np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_unimix_and_kl_in_plain_numpy():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 5, 3, 4)) * 3
    p, q = (
        0.99 * np.exp(x) / np.exp(x).sum(-1, keepdims=True) + 0.01 / 4 for x in (a, b)
    )
    np.testing.assert_allclose(
        np.exp(distributions.unimix(jnp.asarray(a))), p, atol=1e-6
    )
    found = distributions.kl(
        distributions.unimix(jnp.asarray(a)), distributions.unimix(jnp.asarray(b))
    )
    np.testing.assert_allclose(found, (p * np.log(p / q)).sum((-2, -1)), rtol=1e-5)
    found = distributions.entropy(distributions.unimix(jnp.asarray(a)))
    np.testing.assert_allclose(found, -(p * np.log(p)).sum(-1), rtol=1e-5)


def test_samples_follow_the_probabilities_and_pass_their_gradient():
    logp = distributions.unimix(jnp.array([[0.0, 1.0, -1.0]]))
    gumbel = jax.random.gumbel(jax.random.key(0), (20_000, 1, 3))
    drawn = distributions.straight_through_sample(
        jnp.broadcast_to(logp, gumbel.shape), gumbel
    )
    assert set(np.unique(drawn.round(6))) == {0, 1}
    np.testing.assert_allclose(drawn.mean(0), np.exp(logp), atol=0.01)
    weights = jnp.array([3.0, -1.0, 2.0])
    grad = jax.grad(
        lambda x: (distributions.straight_through_sample(x, gumbel[0]) * weights).sum()
    )(logp)
    np.testing.assert_allclose(grad, np.exp(logp) * weights, rtol=1e-6)


def test_a_soft_label_costs_its_entropy_at_best():
    best = jnp.log(0.997 / 0.003)
    entropy = -(0.997 * np.log(0.997) + 0.003 * np.log(0.003))
    np.testing.assert_allclose(
        distributions.binary_loss(best, 0.997), entropy, rtol=1e-5
    )
    slope = jax.grad(distributions.binary_loss)(best, 0.997)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


MIXED = (
    ("gear", Space((2,), "int32", 3)),
    ("steer", Space((2,))),
)


def test_policies_in_plain_numpy():
    rng = np.random.default_rng(0)
    out = jnp.asarray(
        rng.standard_normal((5, action_distributions.width(MIXED))), jnp.float32
    )
    vector = action_distributions.sample(MIXED, out, jax.random.key(0), unimix=0.01)
    logp, entropy = action_distributions.log_prob_and_entropy(
        MIXED, out, vector, unimix=0.01
    )
    out, vector = np.asarray(out, np.float64), np.asarray(vector, np.float64)
    p = np.exp(out[:, :6].reshape(5, 2, 3))
    p = 0.99 * p / p.sum(-1, keepdims=True) + 0.01 / 3
    mean, std = np.tanh(out[:, 6:8]), 0.1 + 0.9 / (1 + np.exp(-out[:, 8:] - 2))
    expected = np.log((p * vector[:, :6].reshape(p.shape)).sum(-1)).sum(-1)
    z = (vector[:, 6:] - mean) / std
    expected += (-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(-1)
    np.testing.assert_allclose(logp, expected, rtol=1e-5)
    expected = -(p * np.log(p)).sum((-2, -1))
    expected += (0.5 * np.log(2 * np.pi * np.e * std**2)).sum(-1)
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)


def test_actions_by_name_and_as_one_vector():
    out = jax.random.normal(jax.random.key(1), (4, action_distributions.width(MIXED)))
    vector = action_distributions.sample(MIXED, out, jax.random.key(0), unimix=0.0)
    found = action_distributions.as_actions(MIXED, vector)
    assert found["gear"].shape == (4, 2) and found["steer"].shape == (4, 2)
    assert np.issubdtype(found["gear"].dtype, np.integer)
    hot = np.eye(3)[found["gear"]].reshape(4, -1)
    vector_again = np.concatenate([hot, found["steer"]], -1, dtype=np.float32)
    np.testing.assert_array_equal(vector_again, vector)


@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_drawn_actions_follow_the_actor(unimix):
    out = jnp.broadcast_to(jnp.array([2.0, 0.0, -2.0]), (20_000, 3))
    actions = (("a", Space((), "int32", 3)),)
    drawn = action_distributions.sample(actions, out, jax.random.key(0), unimix=unimix)
    p = jnp.exp(distributions.unimix(out[0], unimix))
    np.testing.assert_allclose(drawn.mean(0), p, atol=0.01)
