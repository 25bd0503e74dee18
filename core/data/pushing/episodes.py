"""Recordings of a noisy scripted pusher, made and drawn when they are read.

The pusher goes round the puck to the side that faces away from a random place, pushes it
there, and goes on with the next place; its actions are noisy, and some are repeated.
"""

import dataclasses
import functools

import numpy as np

from core.data.episodes.action_parts import real_part
from core.data.episodes.steps import LazyImages, episode_flags
from core.data.pushing import physics
from core.data.pushing.draw import draw

NAME = "pushing"
COUNT, SIZE = 10_000, 64  # episodes, and pixels per side, of the name alone
STEPS = 100  # of an episode
RATE = 10.0  # steps per second
NOISE = 0.7  # deviation, relative to the pusher's own action
REPEATED = 0.05  # share of the steps that repeat the action before
ROUND = physics.TOUCH + 0.03  # from the puck's center, on the way round it
ALIGNED = 0.35  # radians from the line through place and puck, within which it pushes
ARRIVED = 0.04  # of the puck from its place
BLOCK = 512  # episodes that are simulated together
POSITION = "log/position"


def is_pushing(name: str) -> bool:
    """Whether a name stands for the pushing task."""
    return name.partition(":")[0] == NAME


def open_pushing(name: str) -> "Episodes":
    """The episodes of "pushing", "pushing:EPISODES" or "pushing:EPISODES:SIZE".

    Raises ValueError for numbers that cannot be.
    """
    numbers = name.split(":")[1:]
    if len(numbers) > 2 or not all(x.isdecimal() and int(x) for x in numbers):
        raise ValueError(
            f"{name} is not {NAME}:EPISODES:SIZE; expected numbers such as "
            f"{NAME}:{COUNT}:{SIZE}"
        )
    count, size = (*map(int, numbers), *(COUNT, SIZE)[len(numbers) :])
    if not 16 <= size <= 512:
        raise ValueError(f"{name} has pictures of {size} pixels; expected 16 to 512")
    return Episodes(count, size)


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes as recordings (core/data/episodes/trajectories.py), by seed and number.

    Besides image, action and reward they have POSITION, float32 [T, 2, 2]: the centers of
    disc and puck in sides of the picture, x to the right and y down.
    """

    count: int = COUNT
    size: int = SIZE
    seed: int = 0

    def __str__(self):
        return f"{NAME}:{self.count}:{self.size}"

    def __len__(self):
        return self.count

    @property
    def about(self):
        names = ["disc x", "disc y", "puck x", "puck y"]
        return {
            "names": {"action": ["right", "down"], POSITION: names},
            "units": {"action": f"{physics.STEP} sides per step", POSITION: "sides"},
            "rate": RATE,
            "action": [real_part((2,), -1, 1)],
        }

    def name(self, index):
        return f"{NAME}/{index}"

    def load(self, index):
        index = int(index)
        if not 0 <= index < self.count:
            raise IndexError(f"episode {index} of {self}")
        block = push_block(self.seed, index // BLOCK)
        place, action = (x[index % BLOCK] for x in block)
        return {
            "image": LazyImages(STEPS, functools.partial(draw_part, place, self.size)),
            "action": action,
            "reward": np.zeros(STEPS, np.float32),
            **episode_flags(STEPS, terminal=False),
            "time": np.arange(STEPS) / RATE,
            POSITION: place,
        }


def draw_part(place, size, start, stop):
    """Pictures of the positions start..stop - 1 of an episode."""
    part = place[start:stop]
    return draw(part[:, 0], part[:, 1], size)


@functools.lru_cache(maxsize=40)  # of 1.2 MB
def push_block(seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions [BLOCK, STEPS, 2, 2], actions [BLOCK, STEPS, 2]), float32.

    Action t was taken at position t.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, block]))
    disc, puck = physics.random_places(rng, BLOCK)
    target = rng.uniform(0.2, 0.8, (BLOCK, 2))
    action, places, actions = np.zeros((BLOCK, 2)), [], []
    for _ in range(STEPS):
        there = np.linalg.norm(target - puck, axis=1) < ARRIVED
        fresh = rng.uniform(0.2, 0.8, (BLOCK, 2))
        target = np.where(there[:, None], fresh, target)
        own = push(disc, puck, target) + NOISE * rng.standard_normal((BLOCK, 2))
        again = rng.random((BLOCK, 1)) < REPEATED
        action = np.where(again, action, np.clip(own, -1, 1))
        places.append(np.stack([disc, puck], 1))
        actions.append(action)
        disc, puck = physics.move(disc, puck, physics.STEP * action)
    return tuple(np.stack(x, 1).astype(np.float32) for x in (places, actions))


def push(disc, puck, target) -> np.ndarray:
    """The pusher's own action, in -1..1: round the puck, then straight through it."""
    side, wanted = disc - puck, puck - target
    angle = np.arctan2(side[:, 1], side[:, 0])
    turn = np.arctan2(wanted[:, 1], wanted[:, 0]) - angle
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    ahead = angle + np.clip(turn, -0.6, 0.6)
    round_it = puck + ROUND * np.stack([np.cos(ahead), np.sin(ahead)], 1)
    through = (
        puck - side * 0
    )  # its center: the disc is stopped by the puck, and pushes it
    goal = np.where((np.abs(turn) < ALIGNED)[:, None], through, round_it)
    gap = goal - disc
    far = np.linalg.norm(gap, axis=1, keepdims=True)
    return gap / np.maximum(far, physics.STEP)
