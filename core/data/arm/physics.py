"""Motion of a planar arm: two joints with limits, whose velocities are the action.

The arm lies on a table, seen from above: the unit square, x to the right and y down. The
shoulder is measured from straight up in the picture, the elbow from the direction of the upper
arm, both in radians and clockwise.
"""

import numpy as np

BASE = np.array([0.5, 0.72])
UPPER, FORE = 0.27, 0.21  # sides; lengths of the links
LIMITS = np.array([1.3, 2.2])  # radians to each side: shoulder, elbow
STEP = 0.1  # radians that an action of 1 turns a joint


def move(joints, turn) -> np.ndarray:
    """Joints [B, 2] after turning by `turn` [B, 2]; a joint stops at its limit."""
    return np.clip(joints + turn, -LIMITS, LIMITS)


def points(joints) -> np.ndarray:
    """Elbow and tip of joints [..., 2] as positions [..., 2, 2]."""
    joints = np.asarray(joints, np.float64)
    upper, fore = joints[..., 0], joints[..., 0] + joints[..., 1]
    elbow = BASE + UPPER * direction(upper)
    return np.stack([elbow, elbow + FORE * direction(fore)], -2)


def joints_of(places) -> np.ndarray:
    """Joints [..., 2] of elbow and tip [..., 2, 2]: the inverse of `points`."""
    places = np.asarray(places, np.float64)
    upper = angle(places[..., 0, :] - BASE)
    fore = angle(places[..., 1, :] - places[..., 0, :])
    bend = (fore - upper + np.pi) % (2 * np.pi) - np.pi
    return np.stack([upper, bend], -1)


def direction(angle) -> np.ndarray:
    """Unit vectors [..., 2] at angles from straight up."""
    return np.stack([np.sin(angle), -np.cos(angle)], -1)


def angle(way) -> np.ndarray:
    """Angles from straight up of vectors [..., 2]."""
    return np.arctan2(way[..., 0], -way[..., 1])


def random_joints(rng, count: int) -> np.ndarray:
    """Joints [count, 2], evenly within the limits."""
    return rng.uniform(-LIMITS, LIMITS, (count, 2))
