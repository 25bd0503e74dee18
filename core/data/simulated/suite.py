"""Opens tasks of the DeepMind Control suite and environments of gymnasium by name."""

import os
from ctypes.util import find_library

from core.base.packages import package, unknown
from core.base.text import one_line
from core.data.records import explain

CAMERAS = {"quadruped": 2}  # the one that follows the body; 0 in other domains
OFFSCREEN = {"EGL": "egl", "OSMesa": "osmesa"}  # library -> value of MUJOCO_GL


def load_dmc(name: str, seed: int, size: int):
    """(environment, () -> image of size x size) of DOMAIN_TASK; both may have underscores.

    Raises ValueError for an unknown name.
    """
    suite = imported_suite()
    tasks = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in tasks:
        raise unknown("task of dmc", name, tasks)
    environment = suite.load(*tasks[name], task_kwargs={"random": seed})
    view = {"height": size, "width": size, "camera_id": CAMERAS.get(tasks[name][0], 0)}
    return environment, lambda: environment.physics.render(**view)


def imported_suite():
    """The module dm_control.suite, with an off-screen renderer if there is one."""
    choose_renderer()
    try:
        return package("dm_control.suite", suite="dmc")
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"dm_control cannot render with MUJOCO_GL={os.environ.get('MUJOCO_GL')} "
            f"({error}); set it to egl, osmesa or glfw, or to disabled for tasks without "
            "images"
        ) from error


def choose_renderer():
    """Set MUJOCO_GL, which is read on import and by default wants a screen, if it is not."""
    for library, value in OFFSCREEN.items():
        if "MUJOCO_GL" not in os.environ and find_library(library):  # a slow search
            os.environ["MUJOCO_GL"] = value


def load_gym(name: str, **words):
    """The environment ID or MODULE:ID of gymnasium, made with these arguments.

    Raises ValueError if it is unknown or cannot be made.
    """
    gymnasium = package("gymnasium", suite="gym")
    # gymnasium imports MODULE of MODULE:ID, which then registers the id.
    if ":" not in name and name not in gymnasium.registry:
        raise unknown(
            "environment of gym (gym:MODULE:NAME imports the module that registers it)",
            name,
            gymnasium.registry,
        )
    try:
        # Our own checks see every step; gymnasium's checker warns about what we convert.
        return gymnasium.make(name, disable_env_checker=True, **words)
    except Exception as error:
        said = isinstance(error, gymnasium.error.Error | ImportError)
        why = one_line(error).removesuffix(".") if said else explain(error)
        if isinstance(error, ImportError) and "pip install" not in why:
            why += "; install the package that it names"
        raise ValueError(f"cannot make gym:{name}: {why}") from error
