"""Lambda returns against plain loops in numpy."""

import numpy as np

from core.agents.returns import lambda_returns, replay_returns


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_lambda_returns_are_a_plain_loop():
    reward, value = normal(0, 7, 3), normal(1, 7, 3)
    cont = np.random.default_rng(2).random((7, 3)).astype(np.float32)
    expected, future = np.zeros((6, 3)), value[-1].astype(np.float64)
    for t in reversed(range(6)):
        mixed = 0.05 * value[t + 1] + 0.95 * future
        expected[t] = future = reward[t + 1] + cont[t + 1] * mixed
    found = lambda_returns(reward, cont, value, lam=0.95)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_returns_at_the_ends_of_lambda():
    reward, value, one = normal(0, 7, 3), normal(1, 7, 3), np.ones((7, 3), np.float32)
    to_go = reward[::-1].cumsum(0)[::-1][1:] + value[-1]
    found = lambda_returns(reward, one, value, lam=1.0)
    np.testing.assert_allclose(found, to_go, atol=1e-5)
    found = lambda_returns(reward, one, value, lam=0.0)
    np.testing.assert_allclose(found, reward[1:] + value[1:], atol=1e-6)


def test_replay_returns_are_a_plain_loop():
    reward, bootstrap = normal(0, 7, 3), normal(1, 7, 3)
    rng = np.random.default_rng(2)
    last = rng.random((7, 3)) < 0.3
    terminal = last & (rng.random((7, 3)) < 0.5)
    gamma, future = 1 - 1 / 333, bootstrap[-1].astype(np.float64)
    expected = np.zeros((6, 3))
    for t in reversed(range(6)):
        lam = 0.95 * (1 - last[t + 1])
        mixed = (1 - lam) * bootstrap[t + 1] + lam * future
        live = gamma * (1 - terminal[t + 1])
        expected[t] = future = reward[t + 1] + live * mixed
    found = replay_returns(reward, last, terminal, bootstrap, lam=0.95, gamma=gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
