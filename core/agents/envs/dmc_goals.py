"""Reacher and point mass of DeepMind Control as worlds with goals (core/planning/goals.py)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from core.agents.envs.dmc import load
from core.base.names import choose

STATE = "log/physics"  # positions and velocities of the joints


class Goal(NamedTuple):
    """What counts as the goal. gap: (positions, those of the goal) [..., n] -> differences.

    reached: norm of the differences below which the goal is reached.
    """

    task: str
    gap: Callable[[np.ndarray, np.ndarray], np.ndarray]
    reached: float


def angles(now, goal):
    """Radians; the shoulder turns all the way round, the wrist does not."""
    gap = now - goal
    shoulder = (gap[..., :1] + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate([shoulder, gap[..., 1:]], -1)


GOALS = {
    "reacher": Goal("reacher_easy", angles, 0.2),  # radians
    "point_mass": Goal("point_mass_easy", np.subtract, 0.03),  # meters
}


class DmcGoals:
    """B problems of one body, whose state is STATE, [B, positions and velocities].

    The suite's own target is not drawn: goals are states. All problems share one simulator,
    which is put into the state of each in turn.
    """

    state_names = (STATE,)

    def __init__(self, name: str, size: int, *, seed: int = 0):
        """name: in GOALS; ValueError for another. size: pixels per side of images."""
        self.goal = choose([name], GOALS, "world with goals of dmc")[name]
        self.environment, self.picture = load(self.goal.task, seed, size)
        spec = self.environment.action_spec()
        self.low, self.high = (
            x.astype(np.float32) for x in (spec.minimum, spec.maximum)
        )
        self.physics = self.environment.physics
        self.physics.named.model.geom_rgba["target", 3] = 0
        self.joints = self.physics.model.nq
        self.parts = round(
            self.environment.control_timestep() / self.physics.timestep()
        )
        self.state = np.zeros((0, len(self.physics.get_state())))

    def reset(self, states: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError for states of another length."""
        state = np.array(states[STATE], np.float64)
        width = len(self.physics.get_state())
        if state.ndim != 2 or state.shape[1] != width:
            raise ValueError(f"{STATE} is {state.shape}; expected [problems, {width}]")
        self.state = state

    def put(self, b: int) -> None:
        """The simulator into the state of problem b."""
        with self.physics.reset_context():
            self.physics.set_state(self.state[b])

    def observe(self) -> dict[str, np.ndarray]:
        """{"image": uint8 [B, size, size, 3], and the state}."""
        images = []
        for b in range(len(self.state)):
            self.put(b)
            images.append(self.picture())
        return {"image": np.stack(images), STATE: self.state.astype(np.float32)}

    def step(self, actions: np.ndarray) -> None:
        """One control step of each problem; actions [B, A], clipped to the bounds."""
        for b, action in enumerate(np.clip(actions, self.low, self.high)):
            self.put(b)
            self.physics.set_control(action)
            self.physics.step(self.parts)
            self.state[b] = self.physics.get_state()

    def distance(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Norm of the differences of positions, float [B]."""
        wanted = np.asarray(goals[STATE], np.float64)[:, : self.joints]
        return np.linalg.norm(
            self.goal.gap(self.state[:, : self.joints], wanted), axis=1
        )

    def reached(self, goals: Mapping[str, np.ndarray]) -> np.ndarray:
        """bool [B]."""
        return self.distance(goals) < self.goal.reached

    def sample(self, rng: np.random.Generator) -> tuple[dict, dict]:
        """(start, goal): states that the suite begins an episode in, at rest."""
        return {STATE: self.draw(rng)}, {STATE: self.draw(rng)}

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A state of the suite's reset, by a random number."""
        self.environment.task.random.seed(int(rng.integers(2**31)))
        self.environment.reset()
        self.physics.named.model.geom_rgba["target", 3] = 0
        state = self.physics.get_state()
        state[self.joints :] = 0
        return state
