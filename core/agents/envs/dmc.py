"""Tasks of the DeepMind Control suite, observed as state vectors or as images."""

import numpy as np

from core.agents.envs.env import episode_seed
from core.agents.spaces import Space
from core.data.simulated.suite import load_dmc


def make(name, *, seed, size):
    """A task observed as the vectors that the suite names."""
    environment, render = load_dmc(name, seed, size)
    spec = environment.observation_spec()
    observations = {key: Space(x.shape or (1,)) for key, x in spec.items()}

    def observe(step):
        found = step.observation
        return {k: np.reshape(found[k], s.shape) for k, s in observations.items()}

    return Dmc(environment, observations, observe, render, seed)


def make_image(name, *, seed, size):
    """A task observed as one image of size x size."""
    environment, render = load_dmc(name, seed, size)
    spaces = {"image": Space((size, size, 3), "uint8")}
    return Dmc(environment, spaces, lambda step: {"image": render()}, render, seed)


class Dmc:
    """A dm_control environment with functions that observe a step and render it."""

    def __init__(self, environment, observations, observe, render, seed):
        self.environment, self.seed = environment, seed
        self.observe_step, self.picture = observe, render
        spec = environment.action_spec()
        self.observations = observations
        self.actions = {"action": Space(spec.shape)}
        self.bounds = {"action": (spec.minimum, spec.maximum)}

    def reset(self, episode):
        self.environment.task.random.seed(episode_seed(self.seed, episode))
        self.now = self.environment.reset()

    def advance(self, action):
        self.now = self.environment.step(action["action"])
        # At the time limit the suite leaves the discount at 1.
        return self.now.reward, self.now.last(), self.now.discount == 0

    def observe(self):
        return self.observe_step(self.now)

    def close(self):
        self.environment.close()
