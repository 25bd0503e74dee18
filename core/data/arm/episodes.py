"""Recordings of an arm that is driven to random poses, made and drawn when they are read.

The driver turns both joints towards a random pose, with noise, repeats some actions, and goes
on with the next pose.
"""

import functools

import numpy as np

from core.data.arm import physics
from core.data.arm.draw import draw
from core.data.episodes.scripted import REPEATED, STEPS, Task, as_block

NOISE = 1.0  # deviation, relative to the driver's own action
ARRIVED = 0.15  # radians of both joints from the pose
BLOCK = 512


@functools.lru_cache(maxsize=40)  # of 1.2 MB
def drive_block(seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """As of core.data.episodes.scripted.Task; elbow, then tip: [BLOCK, STEPS, 2, 2]."""
    rng = np.random.Generator(np.random.Philox(key=[seed, block]))
    joints, pose = (physics.random_joints(rng, BLOCK) for _ in range(2))
    action, places, actions = np.zeros((BLOCK, 2)), [], []
    for _ in range(STEPS):
        there = (np.abs(pose - joints) < ARRIVED).all(1)
        pose = np.where(there[:, None], physics.random_joints(rng, BLOCK), pose)
        gap = pose - joints
        own = gap / np.maximum(np.abs(gap).max(1, keepdims=True), physics.STEP)
        own = own + NOISE * rng.standard_normal((BLOCK, 2))
        again = rng.random((BLOCK, 1)) < REPEATED
        action = np.where(again, action, np.clip(own, -1, 1))
        places.append(physics.points(joints))
        actions.append(action)
        joints = physics.move(joints, physics.STEP * action)
    return as_block(places, actions)


ARM = Task(
    "arm", BLOCK, physics.STEP, ("elbow x", "elbow y", "tip x", "tip y"),
    simulate=drive_block, draw=draw, actions=("shoulder", "elbow"), unit="radians",
)  # fmt: skip
