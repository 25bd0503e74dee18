"""Gymnasium environments, by the id in its registry."""

import importlib.util

import numpy as np

from core.agents.envs.env import episode_seed
from core.base.packages import package
from core.base.text import one_line
from core.data.simulated.suite import load_gym


def make(name, *, seed, size):
    register_atari(name, package("gymnasium", suite="gym").registry)
    environment = load_gym(name)
    try:
        return Gym(environment, seed, size)
    except ValueError as error:
        environment.close()
        raise ValueError(f"gym:{name}: {error}") from error


def register_atari(name, registry):
    """Import ale_py, which registers its games, if the name may be one of them.

    Raises ValueError if it is one for certain and the package is missing.
    """
    if name.startswith("ALE/"):
        package("ale_py", suite="gym:ALE/")
    elif (
        ":" not in name and name not in registry and importlib.util.find_spec("ale_py")
    ):
        importlib.import_module("ale_py")


class Gym:
    """A gymnasium environment; gym_spaces.py says how its spaces are read."""

    def __init__(self, environment, seed, size):
        from core.agents.envs import gym_spaces  # imports gymnasium, which is optional

        self.environment, self.seed = environment, seed
        self.seen = gym_spaces.observations(environment.observation_space, size=size)
        self.observations = {name: seen.space for name, seen in self.seen.items()}
        acted = gym_spaces.actions(environment.action_space)
        self.actions, self.bounds, self.native = acted

    def reset(self, episode):
        seed = episode_seed(self.seed, episode)
        try:
            answer = self.environment.reset(seed=seed)
        except TypeError as error:
            if "seed" not in str(error):
                raise
            raise ValueError(f"cannot be seeded: {one_line(error)}") from error
        self.now, _ = answer_of("reset()", answer, 2)

    def advance(self, action):
        answer = self.environment.step(self.native(action))
        self.now, reward, terminal, cut, _ = answer_of("step()", answer, 5)
        if np.size(reward) != 1:
            raise ValueError(f"the reward is {reward}; expected one number")
        last = bool(terminal) or bool(cut)
        return float(np.reshape(reward, ())), last, bool(terminal)

    def observe(self):
        return {
            name: seen.read(self.now)
            for name, seen in self.seen.items()
            if not isinstance(seen.space, str)
        }

    def picture(self):
        for seen in self.seen.values():
            if not isinstance(seen.space, str) and seen.space.is_image:
                return seen.read(self.now)
        return None

    def close(self):
        self.environment.close()


def answer_of(call: str, answer, count: int):
    """The parts of an answer; raises ValueError unless there are `count`."""
    if not isinstance(answer, tuple) or len(answer) != count:
        found = f"{len(answer)} parts" if isinstance(answer, tuple) else "no tuple"
        raise ValueError(
            f"{call} gives {found}; expected {count}, as gymnasium asks (an environment of "
            "gym 0.25 or before needs the package shimmy)"
        )
    return answer
