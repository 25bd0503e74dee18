"""A MuJoCo task as a world with goals, many problems side by side (core/planning/goals.py)."""

from collections.abc import Mapping

import numpy as np

from core.data.simulated.simulator import open_simulator, put_state, read_state

STATE = "log/physics"  # positions and velocities of all joints
PLACE = "log/place"  # what is compared with a goal, such as the angles of joints


class SimulatedGoals:
    """B problems of one task; a state is STATE, [B, numbers], with its PLACE, [B, n].

    All problems share one simulator, which is put into the state of each in turn.
    """

    state_names = (STATE, PLACE)

    def __init__(self, task: str, size: int):
        """As `open_simulator`. size: pixels per side of pictures."""
        self.simulator = open_simulator(task, size)
        self.low, self.high = (
            np.asarray(x, np.float32) for x in (self.simulator.low, self.simulator.high)
        )
        self.state = self.place = np.zeros((0, 0))

    def reset(self, states: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError for states of another length."""
        state, place = (np.array(states[k], np.float64) for k in self.state_names)
        if state.ndim != 2 or place.ndim != 2 or len(state) != len(place):
            raise ValueError(
                f"{STATE} is {state.shape} and {PLACE} {place.shape}; expected "
                "[problems, numbers]"
            )
        put_state(self.simulator, state[0])  # checks the length
        self.state, self.place = state, place

    def observe(self) -> dict[str, np.ndarray]:
        """{"image": uint8 [B, size, size, 3], and the state}."""
        images = []
        for state in self.state:
            put_state(self.simulator, state)
            images.append(self.simulator.picture())
        numbers = self.state.astype(np.float32), self.place.astype(np.float32)
        return {"image": np.stack(images), STATE: numbers[0], PLACE: numbers[1]}

    def step(self, actions: np.ndarray) -> None:
        """One control step of each problem; actions [B, A], clipped to the bounds."""
        for b, action in enumerate(np.clip(actions, self.low, self.high)):
            put_state(self.simulator, self.state[b])
            self.place[b] = self.simulator.act(action)
            self.state[b] = read_state(self.simulator)

    def distance(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Norm of the differences of places, float [B]."""
        gap = self.simulator.gap(self.place, np.asarray(goals[PLACE], np.float64))
        return np.linalg.norm(gap, axis=1)

    def reached(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """bool [B]."""
        wanted = np.asarray(goals[PLACE], np.float64)
        pairs = zip(self.place, wanted, strict=True)
        return np.array([self.simulator.reached(*pair) for pair in pairs], bool)

    def sample(self, rng: np.random.Generator) -> tuple[dict, dict]:
        """(start, goal): beginnings of two episodes of the task."""
        return self.draw(rng), self.draw(rng)

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The state at the beginning of an episode."""
        place = self.simulator.reset(int(rng.integers(2**31)))
        return {STATE: read_state(self.simulator), PLACE: place}
