"""Tasks of the DeepMind Control suite, by their state vectors or by images."""

import os
from ctypes.util import find_library

import numpy as np

from core.agents.envs.env import episode_seed, to_bounds
from core.agents.envs.naming import package, unknown
from core.agents.spaces import Space

CAMERAS = {"quadruped": 2}  # that follows; the first one does elsewhere
DRAWS = {"EGL": "egl", "OSMesa": "osmesa"}  # without a screen: library, its MUJOCO_GL


def make(name, *, seed, size):
    """Vectors as the suite names them."""
    environment, render = load(name, seed, size)
    spec = environment.observation_spec()
    observations = {key: Space(x.shape or (1,)) for key, x in spec.items()}

    def observe(step):
        found = step.observation
        return {k: np.reshape(found[k], s.shape) for k, s in observations.items()}

    return Dmc(environment, observations, observe, render, seed)


def make_image(name, *, seed, size):
    """One image of size x size."""
    environment, render = load(name, seed, size)
    spaces = {"image": Space((size, size, 3), "uint8")}
    return Dmc(environment, spaces, lambda step: {"image": render()}, render, seed)


def load(name, seed, size):
    """(environment, function that draws it) of DOMAIN_TASK; both may have underscores."""
    suite = imported()
    tasks = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in tasks:
        raise unknown("task of dmc", name, tasks)
    environment = suite.load(*tasks[name], task_kwargs={"random": seed})
    view = {"height": size, "width": size, "camera_id": CAMERAS.get(tasks[name][0], 0)}
    return environment, lambda: environment.physics.render(**view)


def imported():
    """The suite; on import it chooses what draws, and would try what needs a screen."""
    for library, value in DRAWS.items():
        if "MUJOCO_GL" not in os.environ and find_library(library):  # a slow search
            os.environ["MUJOCO_GL"] = value
    try:
        return package("dm_control.suite", suite="dmc")
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"dm_control cannot draw with MUJOCO_GL={os.environ.get('MUJOCO_GL')} "
            f"({error}); set it to another of egl, osmesa and glfw, or, for tasks without "
            "images, to disabled"
        ) from error


class Dmc:
    """A dm_control environment, how to look at its steps and how to draw it."""

    def __init__(self, environment, observations, observe, render, seed):
        self.environment, self.seed = environment, seed
        self.look, self.picture = observe, render
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
