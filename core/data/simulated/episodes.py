"""Recordings of MuJoCo tasks: random actions, simulated and drawn when they are read.

Pictures take milliseconds each: for training, `launch.prepare` stores them.
"""

import dataclasses
import functools
import re

import numpy as np

from core.data.episodes.action_parts import real_part
from core.data.episodes.steps import LazyImages, episode_flags
from core.data.simulated.goals import PLACE, STATE
from core.data.simulated.simulator import open_simulator, put_state, read_state

NAME = re.compile(r"(?P<task>.+?)(?::(?P<count>\d+))?(?::(?P<size>\d+))?")
COUNT, SIZE = 500, 64  # episodes, and pixels per side, of a name alone
STEPS = 100  # of an episode
HELD = 25  # steps that an action lasts at most


def open_simulated(name: str) -> "Episodes":
    """The episodes of TASK, TASK:EPISODES or TASK:EPISODES:SIZE; a task as of
    `open_simulator`. Raises ValueError.
    """
    found = NAME.fullmatch(name)
    assert found
    count, size = int(found["count"] or COUNT), int(found["size"] or SIZE)
    if not count or not 16 <= size <= 512:
        raise ValueError(
            f"{name} has {count} episodes with pictures of {size} pixels; expected at "
            "least one, and 16 to 512 pixels"
        )
    open_simulator(found["task"], size)
    return Episodes(found["task"], count, size)


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes as recordings (core/data/episodes/trajectories.py), by number.

    Besides image, action and reward they have STATE and PLACE of
    core/data/simulated/goals.py.
    """

    task: str
    count: int
    size: int

    def __str__(self):
        return f"{self.task}:{self.count}:{self.size}"

    def __len__(self):
        return self.count

    @property
    def about(self):
        simulator = open_simulator(self.task, self.size)
        low, high = simulator.low, simulator.high
        return {
            "rate": simulator.rate,
            "action": [real_part(low.shape, low, high)],
        }

    def name(self, index):
        return f"{self.task}/{index}"

    def load(self, index):
        """The steps of an episode; raises IndexError for a number beyond the last."""
        index = int(index)
        if not 0 <= index < self.count:
            raise IndexError(f"episode {index} of {self}")
        state, place, action = simulate(self.task, self.size, index)
        draw = functools.partial(draw_part, self.task, self.size, state)
        return {
            "image": LazyImages(STEPS, draw),
            "action": action.copy(),
            "reward": np.zeros(STEPS, np.float32),
            **episode_flags(STEPS, terminal=False),
            "time": np.arange(STEPS) / open_simulator(self.task, self.size).rate,
            STATE: state.astype(np.float32),
            PLACE: place.astype(np.float32),
        }


@functools.lru_cache(maxsize=256)
def simulate(task: str, size: int, episode: int):
    """States [STEPS, ...], places [STEPS, n] and actions [STEPS, A] of an episode.

    Actions are uniform, and last for 1 to HELD steps.
    """
    simulator, rng = open_simulator(task, size), np.random.default_rng(episode)
    place = simulator.reset(episode)
    states, places, actions, left = [], [], [], 0
    for _ in range(STEPS):
        if not left:
            action = rng.uniform(simulator.low, simulator.high).astype(np.float32)
            left = rng.integers(HELD) + 1
        left -= 1
        states.append(read_state(simulator))
        places.append(place)
        actions.append(action)
        # Written out anew, so that a recorded state leads where the recording went.
        put_state(simulator, states[-1])
        place = simulator.act(action)
    return np.stack(states), np.stack(places), np.stack(actions)


def draw_part(task: str, size: int, states: np.ndarray, part: slice):
    """Pictures of some states."""
    simulator, images = open_simulator(task, size), []
    for state in states[part]:
        put_state(simulator, state)
        images.append(simulator.picture())
    return np.stack(images)
