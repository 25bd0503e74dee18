"""Tasks of the DeepMind Control suite, observed as state vectors or as images."""

import os
from ctypes.util import find_library

import numpy as np

from core.agents.envs.env import episode_seed
from core.agents.envs.naming import package, unknown
from core.agents.spaces import Space

CAMERAS = {"quadruped": 2}  # the one that follows the body; 0 in other domains
OFFSCREEN = {"EGL": "egl", "OSMesa": "osmesa"}  # library -> value of MUJOCO_GL


def make(name, *, seed, size):
    """A task observed as the vectors that the suite names."""
    environment, render = load(name, seed, size)
    spec = environment.observation_spec()
    observations = {key: Space(x.shape or (1,)) for key, x in spec.items()}

    def observe(step):
        found = step.observation
        return {k: np.reshape(found[k], s.shape) for k, s in observations.items()}

    return Dmc(environment, observations, observe, render, seed)


def make_image(name, *, seed, size):
    """A task observed as one image of size x size."""
    environment, render = load(name, seed, size)
    spaces = {"image": Space((size, size, 3), "uint8")}
    return Dmc(environment, spaces, lambda step: {"image": render()}, render, seed)


def load(name, seed, size):
    """(environment, () -> image) of DOMAIN_TASK; both words may have underscores.

    Raises ValueError for an unknown name.
    """
    suite = imported()
    tasks = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in tasks:
        raise unknown("task of dmc", name, tasks)
    environment = suite.load(*tasks[name], task_kwargs={"random": seed})
    view = {"height": size, "width": size, "camera_id": CAMERAS.get(tasks[name][0], 0)}
    return environment, lambda: environment.physics.render(**view)


def imported():
    """The module dm_control.suite, with an off-screen renderer if there is one.

    It chooses its renderer on import, and by default tries one that needs a screen.
    """
    for library, value in OFFSCREEN.items():
        if "MUJOCO_GL" not in os.environ and find_library(library):  # a slow search
            os.environ["MUJOCO_GL"] = value
    try:
        return package("dm_control.suite", suite="dmc")
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"dm_control cannot render with MUJOCO_GL={os.environ.get('MUJOCO_GL')} "
            f"({error}); set it to egl, osmesa or glfw, or to disabled for tasks without "
            "images"
        ) from error


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
