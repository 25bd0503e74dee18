"""Tasks of the DeepMind Control suite, by their state vectors or by images."""

import os
from ctypes.util import find_library

import numpy as np

from dreamer.envs.env import episode_seed, to_bounds
from dreamer.envs.naming import package, unknown
from dreamer.spaces import Space

CAMERAS = {"quadruped": 2}  # that follows; the first one does elsewhere


def make(name, *, seed, size):
    """Vectors as the suite names them; nothing is drawn."""
    environment, _ = load(name, seed)
    spec = environment.observation_spec()
    observations = {key: Space(x.shape or (1,)) for key, x in spec.items()}

    def observe(step):
        found = step.observation
        return {k: np.reshape(found[k], s.shape) for k, s in observations.items()}

    return Dmc(environment, observations, observe, seed)


def make_image(name, *, seed, size):
    """One image of size x size."""
    # Read by the suite when it is imported; what it would try by itself needs a screen.
    os.environ.setdefault("MUJOCO_GL", "egl" if find_library("EGL") else "osmesa")
    environment, domain = load(name, seed)
    view = {"height": size, "width": size, "camera_id": CAMERAS.get(domain, 0)}

    def observe(step):
        return {"image": environment.physics.render(**view)}

    return Dmc(environment, {"image": Space((size, size, 3), "uint8")}, observe, seed)


def load(name, seed):
    """(environment, domain) of DOMAIN_TASK, where both may have underscores."""
    suite = package("dm_control.suite", suite="dmc")
    tasks = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in tasks:
        raise unknown("task of dmc", name, tasks)
    return suite.load(*tasks[name], task_kwargs={"random": seed}), tasks[name][0]


class Dmc:
    """A dm_control environment and how to look at its steps."""

    def __init__(self, environment, observations, observe, seed):
        self.environment, self.seed = environment, seed
        self.look = observe
        self.spec = environment.action_spec()
        self.observations = observations
        self.actions = {"action": Space(self.spec.shape)}

    def reset(self, episode):
        self.environment.task.random.seed(episode_seed(self.seed, episode))
        self.now = self.environment.reset()

    def advance(self, action):
        low, high = self.spec.minimum, self.spec.maximum
        self.now = self.environment.step(to_bounds(action["action"], low, high))
        # At its time limit the suite keeps the discount of 1.
        return self.now.reward, self.now.last(), self.now.discount == 0

    def observe(self):
        return self.look(self.now)

    def close(self):
        self.environment.close()
