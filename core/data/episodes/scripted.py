"""Recordings of scripted bodies in embedded tasks, simulated in blocks and drawn when read.

A task of the kind NAME is opened by NAME, NAME:EPISODES or NAME:EPISODES:SIZE.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from core.data.episodes.action_parts import real_part
from core.data.episodes.steps import LazyImages, episode_flags

COUNT, SIZE = 10_000, 64  # episodes, and pixels per side, of a name alone
STEPS = 100  # of an episode
RATE = 10.0  # steps per second
REPEATED = 0.05  # share of the steps that repeat the action before
POSITION = "log/position"


class Task(NamedTuple):
    """An embedded task; its functions are those of a module, so that workers can load it.

    Attributes:
      name: of the kind. block: episodes that are simulated together. step: how far an
        action of 1 moves, in `unit`s. places: names of the numbers of POSITION.
      simulate: (seed, block number) -> (positions [block, STEPS, K, 2], actions [block,
        STEPS, 2]), float32; action t was taken at position t. Kept, if it is cached.
      draw: (positions [n, K, 2], size) -> pictures uint8 [n, size, size, 3].
      actions: names of an action's numbers. unit: "sides" of the picture, or "radians".
    """

    name: str
    block: int
    step: float
    places: tuple[str, ...]
    simulate: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
    draw: Callable[[np.ndarray, int], np.ndarray]
    actions: tuple[str, str] = ("right", "down")
    unit: str = "sides"


def names_task(task: Task, name: str) -> bool:
    """Whether a name stands for episodes of the task."""
    return name.partition(":")[0] == task.name


def open_task(task: Task, name: str) -> "Episodes":
    """The episodes of a name; raises ValueError for numbers that cannot be."""
    numbers = name.split(":")[1:]
    if len(numbers) > 2 or not all(x.isdecimal() and int(x) for x in numbers):
        raise ValueError(
            f"{name} is not {task.name}:EPISODES:SIZE; expected numbers such as "
            f"{task.name}:{COUNT}:{SIZE}"
        )
    count, size = (*map(int, numbers), *(COUNT, SIZE)[len(numbers) :])
    if not 16 <= size <= 512:
        raise ValueError(f"{name} has pictures of {size} pixels; expected 16 to 512")
    return Episodes(task, count, size)


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes as recordings (core/data/episodes/trajectories.py), by seed and number.

    Besides image, action and reward they have POSITION, float32 [T, K, 2], the centers of
    bodies in sides of the picture, x to the right and y down.
    """

    task: Task
    count: int = COUNT
    size: int = SIZE
    seed: int = 0

    def __str__(self):
        return f"{self.task.name}:{self.count}:{self.size}"

    def __len__(self):
        return self.count

    @property
    def about(self):
        unit = f"{self.task.step} {self.task.unit} per step"
        return {
            "names": {
                "action": list(self.task.actions),
                POSITION: list(self.task.places),
            },
            "units": {"action": unit, POSITION: "sides"},
            "rate": RATE,
            "action": [real_part((2,), -1, 1)],
        }

    def name(self, index):
        return f"{self.task.name}/{index}"

    def load(self, index):
        """The steps of an episode; raises IndexError for a number beyond the last."""
        index = int(index)
        if not 0 <= index < self.count:
            raise IndexError(f"episode {index} of {self}")
        block = self.task.simulate(self.seed, index // self.task.block)
        place, action = (x[index % self.task.block] for x in block)
        part = functools.partial(draw_part, self.task.draw, place, self.size)
        return {
            "image": LazyImages(STEPS, part),
            "action": action,
            "reward": np.zeros(STEPS, np.float32),
            **episode_flags(STEPS, terminal=False),
            "time": np.arange(STEPS) / RATE,
            POSITION: place,
        }


def draw_part(draw, place, size, part: slice):
    """Pictures of some positions of an episode."""
    return draw(place[part], size)


def as_block(places, actions) -> tuple[np.ndarray, np.ndarray]:
    """What `Task.simulate` returns, of lists of [block, K, 2] and [block, 2] by step."""
    return tuple(np.stack(x, 1).astype(np.float32) for x in (places, actions))


def positions_of(states: Mapping[str, np.ndarray], bodies: int) -> np.ndarray:
    """Positions [B, bodies, 2] of states; raises ValueError for other shapes."""
    place = np.asarray(states[POSITION], np.float64)
    if place.ndim != 3 or place.shape[1:] != (bodies, 2):
        raise ValueError(
            f"{POSITION} is {place.shape}; expected [problems, {bodies}, 2]"
        )
    return place
