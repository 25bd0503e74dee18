"""Env: wraps a simulator into steps with observations, reward and episode flags."""

from typing import Protocol

import cv2
import numpy as np

from core.agents.spaces import RESERVED, Space


class Simulator(Protocol):
    """What a suite implements for Env."""

    observations: dict[str, Space]
    actions: dict[str, Space]

    def reset(self, episode: int) -> None:
        """Begin an episode, which the seed and the number `episode` determine."""

    def advance(self, action: dict) -> tuple[float, bool, bool]:
        """One simulator step by named actions: reward, is_last, is_terminal."""
        ...

    def observe(self) -> dict:
        """Observations by name. Apart from `advance`, since repeated steps need none."""
        ...

    def picture(self) -> np.ndarray | None:
        """The scene for people, uint8 [h, w, channels]; None if it cannot be drawn."""
        ...

    def close(self) -> None: ...


class Env:
    """Steps of a simulator, each action `repeat` times; the step after a last one resets.

    Raises ValueError for an observation with a reserved name.
    """

    def __init__(self, simulator: Simulator, *, repeat: int = 1):
        self.simulator, self.repeat = simulator, repeat
        self.observations, self.actions = simulator.observations, simulator.actions
        taken = set(RESERVED) & set(self.observations)
        if taken:
            raise ValueError(
                f"an observation is named {min(taken)!r}, which is reserved"
            )
        self.episode, self.over = 0, True

    def step(self, action: dict) -> dict:
        """Step by actions by name and "reset": observations by name, reward and flags.

        A reset ignores the actions; its reward is 0.
        """
        if action["reset"] or self.over:
            self.simulator.reset(self.episode)
            self.episode += 1
            self.over = False
            return self.observe() | flags(first=True)
        total, terminal = 0.0, False
        for _ in range(self.repeat):
            reward, self.over, terminal = self.simulator.advance(action)
            total += reward
            if self.over:
                break
        return self.observe() | flags(total, last=self.over, terminal=terminal)

    def observe(self) -> dict:
        """Observations by name, in the declared dtypes."""
        # Copies, since some simulators reuse the arrays that they return.
        found, spaces = self.simulator.observe(), self.observations
        return {k: np.array(x, spaces[k].dtype) for k, x in found.items()}

    def picture(self):
        return self.simulator.picture()

    def close(self):
        self.simulator.close()


def flags(reward=0.0, *, first=False, last=False, terminal=False) -> dict:
    """Reward and flags: the part of a step that all environments have."""
    return {
        "reward": np.float32(reward),
        "is_first": bool(first),
        "is_last": bool(last),
        "is_terminal": bool(terminal),
    }


def to_bounds(action, low, high):
    """Map actions from [-1, 1], after clipping, onto [low, high], elementwise.

    Where one bound is infinite, the action is only clipped to the other.
    """
    bounded = np.isfinite(low) & np.isfinite(high)
    start, width = np.where(bounded, low, -1), np.where(bounded, high - low, 2)
    share = (np.clip(action, -1, 1) + 1) / 2
    return np.clip(start + share * width, low, high)


def episode_seed(seed: int, episode: int) -> int:
    """The 32-bit seed of one episode."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def resized(image, size: int):
    """An image [h, w] or [h, w, channels] as [size, size, channels]."""
    if image.shape[:2] != (size, size):
        # Area averaging, or a ball of two pixels would vanish.
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return image.reshape(size, size, -1)
