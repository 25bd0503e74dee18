"""Environments by the name of a task, SUITE:NAME."""

from core.agents.envs import atari, crafter, dmc, gym, world
from core.agents.envs.env import Env
from core.base.packages import unknown

SUITES = {
    "world": world.make,
    "dmc": dmc.make,
    "dmc_image": dmc.make_image,
    "atari": atari.make,
    "crafter": crafter.make,
    "gym": gym.make,
}


def make(
    task: str,
    *,
    seed: int,
    size: int = 64,
    repeat: int = 1,
    action_bounds: str = "",
    leave_out: str = "",
) -> Env:
    """An environment such as world:reach, dmc:reacher_easy, atari:pong, gym:CartPole-v1.

    size: pixels of an image's side. repeat, action_bounds, leave_out: as in `Env`. Raises
    ValueError for unknown names, missing packages, sizes below 1, and spaces that an agent
    cannot use.
    """
    suite, _, name = task.partition(":")
    if suite not in SUITES:
        raise unknown("suite of tasks (a task is SUITE:NAME)", suite, SUITES)
    if size < 1 or repeat < 1:
        raise ValueError(f"size is {size}, repeat {repeat}; both must be 1 or more")
    simulator = SUITES[suite](name, seed=seed, size=size)
    try:
        return Env(
            simulator, repeat=repeat, action_bounds=action_bounds, leave_out=leave_out
        )
    except ValueError as error:
        simulator.close()
        raise ValueError(f"{task}: {error}") from error
