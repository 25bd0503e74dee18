"""Objectives whose best plan is known, for tests of planners."""

import jax
import jax.numpy as jnp
import numpy as np

from core.nn import row_keys
from core.planning.planners import make_planner
from core.planning.plans import make_space

HORIZON, LOW, HIGH = 3, [-2.0, 0.0], [2.0, 1.0]
SCALE = np.array([1.0, 0.5], np.float32)


class Quadratic:
    """Squared distance of a scaled plan to the one that the context asks for."""

    def encode(self, params, context):
        return {"goal": context["goal"] * params}

    def cost(self, params, start, plans, key):
        gap = plans * SCALE - start["goal"][:, None]
        return jnp.square(gap).sum((-2, -1))


class Noisy(Quadratic):
    """The same with noise on every cost."""

    def cost(self, params, start, plans, key):
        cost = super().cost(params, start, plans, key)
        return cost + 0.1 * row_keys.sample(jax.random.normal, key, cost.shape)


class Broken(Quadratic):
    """The same, but not a number on one side of the bounds' middle."""

    def cost(self, params, start, plans, key):
        cost = super().cost(params, start, plans, key)
        return jnp.where(plans[:, :, 0, 0] < 0, jnp.nan, cost)


class Hopeless(Quadratic):
    """The same, but infinite in problems whose goal is negative at first."""

    def cost(self, params, start, plans, key):
        cost = super().cost(params, start, plans, key)
        return jnp.where(start["goal"][:, :1, 0] < 0, jnp.inf, cost)


class Regulator:
    """Linear dynamics x' = a x + b u with cost x'x + 0.1 u'u at every step, and end 10 x'x."""

    a = np.array([[1.0, 0.2], [0.0, 1.0]], np.float32)
    b = np.array([[0.0], [0.2]], np.float32)
    effort, end = 0.1, 10.0

    def encode(self, params, context):
        return context["x"]

    def cost(self, params, start, plans, key):
        def step(x, u):
            new = (x[..., None, :] * self.a).sum(-1) + (u[..., None, :] * self.b).sum(
                -1
            )
            return new, (x**2).sum(-1) + self.effort * (u**2).sum(-1)

        x = jnp.broadcast_to(start[:, None], (*plans.shape[:2], 2))
        x, paid = jax.lax.scan(step, x, plans.transpose(2, 0, 1, 3))
        return paid.sum(0) + self.end * (x**2).sum(-1)

    def best(self, x, horizon):
        """The optimal actions [H, 1] from x [2], by the Riccati recursion, in float64."""
        a, b = self.a.astype(float), self.b.astype(float)
        value, gains = self.end * np.eye(2), []
        for _ in range(horizon):
            gain = np.linalg.solve(
                self.effort * np.eye(1) + b.T @ value @ b, b.T @ value @ a
            )
            gains.append(gain)
            value = np.eye(2) + a.T @ value @ (a - b @ gain)
        x, actions = np.asarray(x, float), []
        for gain in gains[::-1]:
            actions.append(-gain @ x)
            x = a @ x + b @ actions[-1]
        return np.array(actions)


def goals(B, seed=0):
    """Scaled plans within the bounds [B, H, A]."""
    rng = np.random.default_rng(seed)
    low, high = np.array(LOW) * SCALE, np.array(HIGH) * SCALE
    return rng.uniform(low, high, (B, HORIZON, 2)).astype(np.float32)


def solve(name, objective, goal, key, *, guess=None, **settings):
    """The Plan, in numpy, of a planner for goals [B, H, A] within LOW and HIGH."""
    space = make_space(LOW, HIGH)
    planner = make_planner(name, objective, space, horizon=HORIZON, **settings)
    solve = jax.jit(planner.plan)
    found = solve(np.float32(1), {"goal": goal}, key, guess)
    return jax.tree.map(np.asarray, found)
