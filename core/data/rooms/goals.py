"""Two rooms as a world with goals, many problems side by side (core/planning/goals.py)."""

from collections.abc import Mapping

import numpy as np

from core.data.episodes.scripted import POSITION, positions_of
from core.data.rooms import physics
from core.data.rooms.draw import draw

REACHED = 16 / 224  # sides from the goal, as in the TwoRoom of arXiv 2603.19312


class TwoRooms:
    """A disc per problem, which is to go to a place; the state is POSITION, [B, 1, 2].

    size: pixels per side of pictures.
    """

    state_names = (POSITION,)
    low, high = -np.ones(2, np.float32), np.ones(2, np.float32)

    def __init__(self, size: int):
        self.size, self.place = size, np.zeros((0, 2))

    def reset(self, states: Mapping[str, np.ndarray]) -> None:
        """Put the discs to positions; raises ValueError for one inside a wall."""
        place = centers(states)
        if not (free := physics.is_free(place)).all():
            b = int(np.argmin(free))
            raise ValueError(
                f"{POSITION} of problem {b} is {place[b].round(3).tolist()}, inside a wall"
            )
        self.place = place

    def observe(self) -> dict[str, np.ndarray]:
        """{"image": uint8 [B, size, size, 3], and the state}."""
        place = self.place.astype(np.float32)
        return {"image": draw(place, self.size), POSITION: place[:, None]}

    def step(self, actions: np.ndarray) -> None:
        """One step of all discs; actions [B, 2], clipped to -1..1."""
        actions = np.clip(np.asarray(actions, np.float64), -1, 1)
        self.place = physics.move(self.place, physics.STEP * actions)

    def reached(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether the discs are within REACHED of their goals, bool [B]."""
        return self.distance(goals) < REACHED

    def distance(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """In a straight line, in sides, float [B]."""
        return np.linalg.norm(self.place - centers(goals), axis=1)


def centers(states: Mapping[str, np.ndarray]) -> np.ndarray:
    """Positions [B, 2] of states; raises ValueError for other shapes."""
    return positions_of(states, 1)[:, 0]


def crosses(starts: Mapping[str, np.ndarray], goals: Mapping[str, np.ndarray]):
    """Whether start and goal are in different rooms, bool [B]."""
    return physics.room_of(centers(starts)) != physics.room_of(centers(goals))
