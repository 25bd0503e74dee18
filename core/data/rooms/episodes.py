"""Recordings of a noisy scripted walker in two rooms, made and drawn when they are read.

As the TwoRoom data of arXiv 2603.19312: the walker heads through the door for a random place
in the other room, with noise of twice its own action, and now and then repeats an action.
"""

import dataclasses
import functools

import numpy as np

from core.data.episodes.action_parts import real_part
from core.data.episodes.steps import LazyImages, episode_flags
from core.data.rooms import physics
from core.data.rooms.draw import draw

NAME = "two_rooms"
COUNT, SIZE = 10_000, 64  # episodes, and pixels per side, of the name alone
STEPS = 100  # of an episode
RATE = 10.0  # steps per second
NOISE = 2.0  # deviation, relative to the walker's own action
REPEATED = 0.05  # share of the steps that repeat the action before
MOUTH = (
    physics.NEAR + 0.03
)  # of the places in front of the door, from the wall's middle
ARRIVED = 0.05  # from a place at which the walker is there
BLOCK = 1024  # episodes that are simulated together
POSITION = "log/position"


def is_rooms(name: str) -> bool:
    """Whether a name stands for two rooms."""
    return name.partition(":")[0] == NAME


def open_rooms(name: str) -> "Episodes":
    """The episodes of "two_rooms", "two_rooms:EPISODES" or "two_rooms:EPISODES:SIZE".

    Raises ValueError for numbers that cannot be.
    """
    numbers = name.split(":")[1:]
    if len(numbers) > 2 or not all(x.isdecimal() and int(x) for x in numbers):
        raise ValueError(
            f"{name} is not two_rooms:EPISODES:SIZE; expected numbers such as "
            f"{NAME}:{COUNT}:{SIZE}"
        )
    count, size = (*map(int, numbers), *(COUNT, SIZE)[len(numbers) :])
    if not 16 <= size <= 512:
        raise ValueError(f"{name} has pictures of {size} pixels; expected 16 to 512")
    return Episodes(count, size)


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes as recordings (core/data/episodes/trajectories.py), by seed and number.

    Besides image, action and reward they have POSITION, float32 [T, 1, 2], the center of the
    disc in sides of the picture, x to the right and y down.
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
        action = real_part((2,), -1, 1)
        return {
            "names": {"action": ["right", "down"], POSITION: ["x", "y"]},
            "units": {"action": f"{physics.STEP} sides per step", POSITION: "sides"},
            "rate": RATE,
            "action": [action],
        }

    def name(self, index):
        return f"{NAME}/{index}"

    def load(self, index):
        index = int(index)
        if not 0 <= index < self.count:
            raise IndexError(f"episode {index} of {self}")
        block = walk_block(self.seed, index // BLOCK)
        place, action = (x[index % BLOCK] for x in block)
        return {
            "image": LazyImages(STEPS, functools.partial(draw_part, place, self.size)),
            "action": action,
            "reward": np.zeros(STEPS, np.float32),
            **episode_flags(STEPS, terminal=False),
            "time": np.arange(STEPS) / RATE,
            POSITION: place[:, None],
        }


def draw_part(place, size, start, stop):
    """Pictures of the positions start..stop - 1 of an episode."""
    return draw(place[start:stop], size)


@functools.lru_cache(maxsize=40)  # of 1.6 MB
def walk_block(seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions, actions) of BLOCK episodes, float32 [BLOCK, STEPS, 2].

    Action t was taken at position t.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, block]))
    place, target = random_places(rng, BLOCK), random_places(rng, BLOCK)
    target[:, 0] = np.where(same_room(place, target), 1 - target[:, 0], target[:, 0])
    noise = NOISE * rng.standard_normal((STEPS, BLOCK, 2))
    again = rng.random((STEPS, BLOCK, 1)) < REPEATED
    fresh = random_places(rng, STEPS * BLOCK).reshape(STEPS, BLOCK, 2)
    places, actions, action = [], [], np.zeros((BLOCK, 2))
    for t in range(STEPS):
        there = np.linalg.norm(target - place, axis=1) < ARRIVED
        target = np.where(there[:, None], fresh[t], target)
        gap = waypoint(place, target) - place
        way = gap / np.maximum(np.linalg.norm(gap, axis=1, keepdims=True), 1e-9)
        action = np.where(again[t], action, np.clip(way + noise[t], -1, 1))
        places.append(place)
        actions.append(action)
        place = physics.move(place, physics.STEP * action)
    return tuple(np.stack(x, 1).astype(np.float32) for x in (places, actions))


def waypoint(place, target) -> np.ndarray:
    """Where to head for next, [B, 2]: the target, or first a side of the door."""
    left = physics.room_of(place) == 0
    near = np.stack(
        [
            np.where(left, physics.MIDDLE - MOUTH, physics.MIDDLE + MOUTH),
            np.full(len(place), physics.MIDDLE),
        ],
        1,
    )
    far = np.array([1.0, 0.0]) * np.where(left, 1, -1)[:, None] * 2 * MOUTH + near
    # Beside the door's opening, or inside it.
    aligned = np.abs(place[:, 1] - physics.MIDDLE) < physics.DOOR - physics.RADIUS
    close = np.abs(place[:, 0] - physics.MIDDLE) < MOUTH + ARRIVED
    through = np.where((aligned & close)[:, None], far, near)
    return np.where(same_room(place, target)[:, None], target, through)


def same_room(a, b) -> np.ndarray:
    """Whether two positions [B, 2] are in the same room, bool [B]."""
    return physics.room_of(a) == physics.room_of(b)


def random_places(rng, count: int) -> np.ndarray:
    """Free positions in one of the two rooms, evenly: [count, 2]."""
    width = physics.MIDDLE - physics.NEAR - physics.LOW
    x, y, right = rng.random((3, count))
    x = physics.LOW + width * x
    y = physics.LOW + (physics.HIGH - physics.LOW) * y
    return np.stack([np.where(right < 0.5, x, 1 - x), y], 1)
