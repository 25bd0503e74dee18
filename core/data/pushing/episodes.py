"""Recordings of a noisy scripted pusher, made and drawn when they are read.

The pusher goes round the puck to the side that faces away from a random place, pushes it
there, and goes on with the next place. At times it leaves the puck and goes to a random place
of its own, so that where the puck is does not follow from where the disc is. Its actions are
noisy, and some are repeated.
"""

import functools

import numpy as np

from core.data.episodes.scripted import REPEATED, STEPS, Task, as_block
from core.data.pushing import physics
from core.data.pushing.draw import draw

NOISE = 0.7  # deviation, relative to the pusher's own action
ROUND = physics.TOUCH + 0.03  # from the puck's center, on the way round it
ALIGNED = 0.35  # radians from the line through place and puck, within which it pushes
ARRIVED = 0.04  # of the puck from its place
TURN = 0.08  # chance per step to leave the puck, or to come back to it
BLOCK = 512


@functools.lru_cache(maxsize=40)  # of 1.2 MB
def push_block(seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """As of core.data.episodes.scripted.Task; disc, then puck: [BLOCK, STEPS, 2, 2]."""
    rng = np.random.Generator(np.random.Philox(key=[seed, block]))
    disc, puck = physics.random_places(rng, BLOCK)
    target = rng.uniform(0.2, 0.8, (BLOCK, 2))
    away, own_place = rng.random(BLOCK) < 0.5, rng.uniform(0.1, 0.9, (BLOCK, 2))
    action, places, actions = np.zeros((BLOCK, 2)), [], []
    for _ in range(STEPS):
        there = np.linalg.norm(target - puck, axis=1) < ARRIVED
        fresh = rng.uniform(0.2, 0.8, (BLOCK, 2))
        target = np.where(there[:, None], fresh, target)
        turned = rng.random(BLOCK) < TURN
        fresh = rng.uniform(0.1, 0.9, (BLOCK, 2))
        own_place = np.where(turned[:, None], fresh, own_place)
        away ^= turned
        own = np.where(
            away[:, None], towards(own_place - disc), push(disc, puck, target)
        )
        own = own + NOISE * rng.standard_normal((BLOCK, 2))
        again = rng.random((BLOCK, 1)) < REPEATED
        action = np.where(again, action, np.clip(own, -1, 1))
        places.append(np.stack([disc, puck], 1))
        actions.append(action)
        disc, puck = physics.move(disc, puck, physics.STEP * action)
    return as_block(places, actions)


def push(disc, puck, target) -> np.ndarray:
    """The pusher's own action, in -1..1: round the puck, then straight through it."""
    side, wanted = disc - puck, puck - target
    angle = np.arctan2(side[:, 1], side[:, 0])
    turn = np.arctan2(wanted[:, 1], wanted[:, 0]) - angle
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    ahead = angle + np.clip(turn, -0.6, 0.6)
    round_it = puck + ROUND * np.stack([np.cos(ahead), np.sin(ahead)], 1)
    through = puck  # the disc is stopped by the puck, and pushes it
    goal = np.where((np.abs(turn) < ALIGNED)[:, None], through, round_it)
    return towards(goal - disc)


def towards(gap) -> np.ndarray:
    """The action that moves by `gap` [B, 2], at most of norm 1."""
    far = np.linalg.norm(gap, axis=1, keepdims=True)
    return gap / np.maximum(far, physics.STEP)


def draw_both(place, size: int) -> np.ndarray:
    """Pictures of positions [n, 2, 2], of disc and puck."""
    return draw(place[:, 0], place[:, 1], size)


PUSHING = Task(
    "pushing", BLOCK, physics.STEP, ("disc x", "disc y", "puck x", "puck y"),
    simulate=push_block, draw=draw_both,
)  # fmt: skip
