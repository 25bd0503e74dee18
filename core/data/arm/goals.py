"""The arm as a world with goals, many problems at once (core/planning/goals.py)."""

from collections.abc import Mapping

import numpy as np

from core.data.arm import physics
from core.data.arm.draw import draw
from core.data.episodes.scripted import POSITION, positions_of

REACHED = 0.06  # sides of elbow and tip from their goals


class Arm:
    """Two joints are to bring elbow and tip to their places; the state is POSITION, [B, 2, 2].

    size: pixels per side of pictures.
    """

    state_names = (POSITION,)
    low, high = -np.ones(2, np.float32), np.ones(2, np.float32)

    def __init__(self, size: int):
        self.size, self.joints = size, np.zeros((0, 2))

    def reset(self, states: Mapping[str, np.ndarray]) -> None:
        """Bring the joints to where elbow and tip are; raises ValueError for other shapes."""
        self.joints = physics.joints_of(positions_of(states, 2))

    def observe(self) -> dict[str, np.ndarray]:
        """{"image": uint8 [B, size, size, 3], and the state}."""
        place = physics.points(self.joints).astype(np.float32)
        return {"image": draw(place, self.size), POSITION: place}

    def step(self, actions: np.ndarray) -> None:
        """One step of all arms; actions [B, 2], clipped to -1..1."""
        actions = np.clip(np.asarray(actions, np.float64), -1, 1)
        self.joints = physics.move(self.joints, physics.STEP * actions)

    def reached(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether elbow and tip are within REACHED of their goals, bool [B]."""
        return self.distance(goals) < REACHED

    def distance(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of elbow or tip, whichever is further, in sides, float [B]."""
        gap = physics.points(self.joints) - positions_of(goals, 2)
        return np.linalg.norm(gap, axis=-1).max(-1)
