"""The pushing task as a world with goals, many problems at once (core/planning/goals.py)."""

from collections.abc import Mapping

import numpy as np

from core.data.episodes.scripted import POSITION, positions_of
from core.data.pushing import physics
from core.data.pushing.draw import draw

REACHED = 0.06  # sides of the puck from its goal


class Pushing:
    """A disc is to push a puck to a place; the state is POSITION, [B, 2, 2].

    The goal is a state, too; where its disc is does not count. size: pixels per side.
    """

    state_names = (POSITION,)
    low, high = -np.ones(2, np.float32), np.ones(2, np.float32)

    def __init__(self, size: int):
        self.size, self.disc, self.puck = size, np.zeros((0, 2)), np.zeros((0, 2))

    def reset(self, states: Mapping[str, np.ndarray]) -> None:
        """Put discs and pucks to positions; raises ValueError for other shapes."""
        place = positions_of(states, 2)
        self.disc, self.puck = place[:, 0].copy(), place[:, 1].copy()

    def observe(self) -> dict[str, np.ndarray]:
        """{"image": uint8 [B, size, size, 3], and the state}."""
        place = np.stack([self.disc, self.puck], 1).astype(np.float32)
        return {"image": draw(self.disc, self.puck, self.size), POSITION: place}

    def step(self, actions: np.ndarray) -> None:
        """One step of all discs; actions [B, 2], clipped to -1..1."""
        actions = np.clip(np.asarray(actions, np.float64), -1, 1)
        self.disc, self.puck = physics.move(
            self.disc, self.puck, physics.STEP * actions
        )

    def reached(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether the pucks are within REACHED of their goals, bool [B]."""
        return self.distance(goals) < REACHED

    def distance(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of the pucks, in sides, float [B]."""
        return np.linalg.norm(self.puck - positions_of(goals, 2)[:, 1], axis=1)
