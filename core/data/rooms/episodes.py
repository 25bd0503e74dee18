"""Recordings of a noisy scripted walker in two rooms, made and drawn when they are read.

As the TwoRoom data of arXiv 2603.19312: the walker heads through the door for a random place
in the other room, with noise of twice its own action, and now and then repeats an action.
"""

import functools

import numpy as np

from core.data.episodes.scripted import REPEATED, STEPS, Task, as_block
from core.data.rooms import physics
from core.data.rooms.draw import draw

NOISE = 2.0  # deviation, relative to the walker's own action
MOUTH = physics.NEAR + 0.03  # of places before the door, from the middle of the wall
ARRIVED = 0.05  # from a place at which the walker is there
BLOCK = 1024


@functools.lru_cache(maxsize=40)  # of 1.6 MB
def walk_block(seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """As of core.data.episodes.scripted.Task; positions are [BLOCK, STEPS, 1, 2]."""
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
        places.append(place[:, None])
        actions.append(action)
        place = physics.move(place, physics.STEP * action)
    return as_block(places, actions)


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


def draw_discs(place, size: int) -> np.ndarray:
    """Pictures of positions [n, 1, 2]."""
    return draw(place[:, 0], size)


TWO_ROOMS = Task(
    "two_rooms", BLOCK, physics.STEP, ("x", "y"), simulate=walk_block, draw=draw_discs
)
