"""A world of points that move by their actions, and a model that knows it exactly."""

import jax.numpy as jnp
import numpy as np

from core.planning.goals import GoalModel
from core.planning.objective import over_horizon

MEAN, STD = np.array([0.2, 0.0], np.float32), np.array([0.5, 1.0], np.float32)
SIZE, NEAR = 12, 0.25


class Points:
    """A core.planning.goals.GoalWorld: points in a square of side 8, speed at most 1."""

    low, high = -np.ones(2, np.float32), np.ones(2, np.float32)
    state_names = ("log/place",)

    def reset(self, states):
        self.place = np.array(states["log/place"], np.float32)

    def step(self, actions):
        assert (np.abs(actions) <= 1).all()
        self.place = np.clip(self.place + actions, 0, 8).astype(np.float32)

    def observe(self):
        image = np.zeros((len(self.place), SIZE, SIZE, 3), np.uint8)
        at = (self.place / 8 * (SIZE - 1)).round().astype(int)
        image[np.arange(len(at)), at[:, 1], at[:, 0]] = 255
        return {"image": image, "place": self.place.copy()}

    def distance(self, goals):
        return np.linalg.norm(self.place - goals["log/place"], axis=-1)

    def reached(self, goals):
        return self.distance(goals) < NEAR


class Walks:
    """Recordings of straight walks of 20 steps, with a random speed."""

    about = {}

    def __init__(self, count=6, steps=20, without=()):
        self.count, self.steps, self.without = count, steps, without

    def __len__(self):
        return self.count

    def name(self, index):
        return f"walk {index}"

    def load(self, index):
        rng, T = np.random.default_rng(index), self.steps
        speed = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
        place = 4 + speed * np.arange(T, dtype=np.float32)[:, None]
        found = {
            "place": place,
            "log/place": place,
            "action": np.tile(speed, (T, 1)),
            "is_first": np.arange(T) == 0,
        }
        return {k: x for k, x in found.items() if k not in self.without}


class Exact:
    """The objective: squared distance of the last place to the goal. Params scale it."""

    def __init__(self, skip):
        self.skip = skip

    def encode(self, params, context):
        return context

    def roll(self, params, start, plans):
        """Places after each block: plans [B, S, H, skip * 2] -> [B, S, H, 2]."""
        moves = plans.reshape(*plans.shape[:3], self.skip, 2) * STD + MEAN
        return start["place"][:, None, None] + jnp.cumsum(moves.sum(-2), 2)

    def cost(self, params, start, plans, key):
        gap = self.roll(params, start, plans) - start["goal"][:, None, None]
        return params * over_horizon(jnp.square(gap).sum(-1), last=1)


def context(observed, blocks, goal):
    return {"place": observed["place"][:, -1], "goal": goal["place"]}


def exact_model(skip=2):
    """A GoalModel of Points whose state is seen."""
    objective = Exact(skip)
    return GoalModel(
        objective=objective,
        context=context,
        encode=lambda params, frames: frames["place"],
        roll=objective.roll,
        mean=MEAN,
        std=STD,
        skip=skip,
    )
