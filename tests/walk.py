"""A small task and a policy written by hand, for tests of acting without a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.agents.envs.env import Env
from core.agents.envs.pool import Pool
from core.agents.policy import Policy, step_shapes
from core.agents.replay import Replay
from core.agents.spaces import Space, sorted_spaces

STEPS = 5  # of an episode, after its first


class Walk:
    """Walks along a line by its actions; the reward is the new place."""

    observations = {"place": Space((1,))}
    actions = {"step": Space((1,)), "side": Space((), "int32", 3)}
    bounds = {}

    def __init__(self, seed):
        self.seed = seed

    def reset(self, episode):
        self.place, self.count = float(self.seed % 7), 0

    def advance(self, action):
        self.place += float(action["step"][0]) + int(action["side"])
        self.count += 1
        return self.place, self.count == STEPS, False

    def observe(self):
        return {"place": [self.place]}

    def picture(self):
        return np.full((4, 4, 1), 10 * self.count, np.uint8)

    def close(self):
        pass


SPACES = sorted_spaces(Walk.observations)
ACTIONS = sorted_spaces(
    Walk.actions
)  # side before step: vectors are [side one-hot, step]


def make_env(task, *, seed, size, repeat, **_):
    return Env(Walk(seed), repeat=repeat)


make_pool = functools.partial(Pool, "walk", processes=False, make=make_env)


def first_carry(count):
    return jnp.zeros(count, jnp.int32)


def act(params, carry, observation, key):
    """Steps of params plus noise, the side by the age of the episode, which is kept."""
    age = jnp.where(observation["is_first"], 0, carry + 1)
    noise = jax.random.normal(key, (len(age), 1))
    side = jax.nn.one_hot(age % 3, 3)
    action = jnp.concatenate([side, params["step"] + 0.1 * noise], -1)
    return action, age, {"memory": age[:, None] * jnp.ones(2), "age": age}


POLICY = Policy(
    first_carry,
    act,
    kept_shapes={"memory": ((2,), "float16"), "age": ((), "int32")},
    updated_kept=lambda state: {"memory": state.memory, "age": state.age},
)
FORGETFUL = Policy(first_carry, lambda *args: (*act(*args)[:2], {}))


def make_replay(folder, *, streams, length, policy=POLICY, capacity=400):
    return Replay(
        folder,
        step_shapes(SPACES, ACTIONS),
        kept=policy.kept_shapes,
        streams=streams,
        capacity=capacity,
        length=length,
    )
