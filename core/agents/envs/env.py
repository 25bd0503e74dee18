"""What an agent acts in: a simulator wrapped so that every step is alike."""

from typing import Protocol

import cv2
import numpy as np

from core.agents.spaces import RESERVED, Space


class Simulator(Protocol):
    """One suite's part of an Env."""

    observations: dict[str, Space]
    actions: dict[str, Space]

    def reset(self, episode: int) -> None:
        """Begin an episode, the same one for the same seed and number."""

    def advance(self, action: dict) -> tuple[float, bool, bool]:
        """One step of the simulator -> reward, is_last, is_terminal."""

    def observe(self) -> dict:
        """What is seen now; apart from `advance`, as not all steps are looked at."""

    def picture(self) -> np.ndarray | None:
        """What a person would see now: uint8 [h, w, channels], where it can be drawn."""

    def close(self) -> None: ...


class Env:
    """Steps of a simulator, each action `repeat` times; an episode over, it begins anew."""

    def __init__(self, simulator: Simulator, *, repeat: int = 1):
        self.simulator, self.repeat = simulator, repeat
        self.observations, self.actions = simulator.observations, simulator.actions
        taken = set(RESERVED) & set(self.observations)
        if taken:
            raise ValueError(f"an observation may not be named {min(taken)!r}")
        self.episode, self.over = 0, True

    def step(self, action: dict) -> dict:
        """Named actions and "reset" -> observations, reward and the flags."""
        if action["reset"] or self.over:
            self.simulator.reset(self.episode)
            self.episode += 1
            self.over = False
            return self._seen() | flags(first=True)
        total = 0.0
        for _ in range(self.repeat):
            reward, self.over, terminal = self.simulator.advance(action)
            total += reward
            if self.over:
                break
        return self._seen() | flags(total, last=self.over, terminal=terminal)

    def _seen(self):
        # Copies: some simulators go on to write into what they gave out.
        found, spaces = self.simulator.observe(), self.observations
        return {k: np.array(x, spaces[k].dtype) for k, x in found.items()}

    def picture(self):
        return self.simulator.picture()

    def close(self):
        self.simulator.close()


def flags(reward=0.0, *, first=False, last=False, terminal=False) -> dict:
    """The part of a step that all environments have."""
    return {
        "reward": np.float32(reward),
        "is_first": bool(first),
        "is_last": bool(last),
        "is_terminal": bool(terminal),
    }


def to_bounds(action, low, high):
    """Reals in [-1, 1], clipped there, onto [low, high]; where a bound is infinite,
    they stay as they are.
    """
    bounded = np.isfinite(low) & np.isfinite(high)
    start, width = np.where(bounded, low, -1), np.where(bounded, high - low, 2)
    share = (np.clip(action, -1, 1) + 1) / 2
    return np.clip(start + share * width, low, high)


def episode_seed(seed: int, episode: int) -> int:
    """A seed of 32 bits for one episode."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def resized(image, size: int):
    """An image as [size, size, channels]."""
    if image.shape[:2] != (size, size):
        # Each pixel the mean of what it covers: a ball of two pixels does not vanish.
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return image.reshape(size, size, -1)
