"""Env: wraps a simulator into steps with observations, reward and episode flags."""

from typing import Protocol

import cv2
import numpy as np

from core.agents.spaces import RESERVED, Space
from core.base.packages import unknown
from core.data.episodes.action_parts import LARGE
from core.data.episodes.steps import is_observation

PREFIX = "observation/"  # of observations whose names steps need themselves


class Simulator(Protocol):
    """What a suite implements for Env.

    observations: name -> Space, or a sentence that says why it cannot be read.
    bounds: name -> (low, high) of real actions, in the simulator's units; -1 and 1 for
      those without an entry.
    """

    observations: dict[str, Space | str]
    actions: dict[str, Space]
    bounds: dict[str, tuple[np.ndarray, np.ndarray]]

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

    Args:
      simulator: of a suite. Its observations keep their names, but for those that a step
        needs itself, such as "reward" or "time": these become observation/NAME.
      repeat: simulator steps per action.
      action_bounds: as in `finite_bounds`.
      leave_out: names of observations that are not read, with commas between.

    Real actions are in -1..1, and are scaled to the simulator's bounds. Raises ValueError
    for an observation that cannot be read, bounds that do not limit an action, and a
    simulator without observations or without actions.
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        repeat: int = 1,
        action_bounds: str = "",
        leave_out: str = "",
    ):
        self.simulator, self.repeat = simulator, repeat
        self.names, self.observations = readable(simulator.observations, leave_out)
        self.actions = simulator.actions
        if not self.actions:
            raise ValueError(
                "the environment has no actions; an agent needs one or more"
            )
        self.bounds = {
            name: finite_bounds(*pair, name=name, given=action_bounds)
            for name, pair in simulator.bounds.items()
        }
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
        bounds = self.bounds.items()
        action = action | {k: to_bounds(action[k], *pair) for k, pair in bounds}
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
        found, names = self.simulator.observe(), self.names.items()
        return {k: np.array(found[x], self.observations[k].dtype) for k, x in names}

    def picture(self):
        return self.simulator.picture()

    def close(self):
        self.simulator.close()


def readable(observations: dict[str, Space | str], leave_out: str):
    """(simulator names, spaces) of the observations that are read, by their name in a step.

    leave_out: names with commas between. Raises ValueError for names that do not exist,
    for an observation that cannot be read, and if none is left.
    """
    left = {name.strip() for name in leave_out.split(",") if name.strip()}
    for name in sorted(left - set(observations)):
        raise unknown("observation to leave out", name, observations)
    names, spaces = {}, {}
    for theirs, space in observations.items():
        if theirs in left:
            continue
        if isinstance(space, str):
            raise ValueError(
                f"observation {theirs!r} {space}; leave it out with "
                f"--config.env.leave_out={theirs}, or wrap the environment"
            )
        free = is_observation(theirs) and theirs not in RESERVED
        ours = theirs if free else PREFIX + theirs
        if ours in names or (not free and ours in observations):
            raise ValueError(f"two observations would be called {ours!r}; rename one")
        names[ours], spaces[ours] = theirs, space
    if not names:
        raise ValueError(
            "the environment has no observations; an agent needs one or more"
        )
    return names, spaces


def flags(reward=0.0, *, first=False, last=False, terminal=False) -> dict:
    """Reward and flags: the part of a step that all environments have."""
    return {
        "reward": np.float32(reward),
        "is_first": bool(first),
        "is_last": bool(last),
        "is_terminal": bool(terminal),
    }


def finite_bounds(low, high, *, name: str, given: str = ""):
    """(low, high) of an action as float64 arrays that an agent can be scaled to.

    given: "LOW,HIGH", which replaces bounds that are infinite, NaN or beyond LARGE.
    Raises ValueError for such bounds if it is empty, and if nothing is left between them.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    pair = f"{text_of(low)} to {text_of(high)}"
    open_low, open_high = (~(np.abs(x) <= LARGE) for x in (low, high))
    if (open_low | open_high).any():
        if not given:
            raise ValueError(
                f"{name!r} has the bounds {pair}, and those beyond {LARGE:g} do not limit "
                "it; give what stands in their place by "
                "--config.env.action_bounds=LOW,HIGH"
            )
        least, most = parse_bounds(given, "env")
        low, high = np.where(open_low, least, low), np.where(open_high, most, high)
    if (low > high).any():
        why = f"; env.action_bounds is {given!r}" if given else ""
        raise ValueError(f"{name!r} has the bounds {pair}, with nothing between{why}")
    return low, high


def text_of(bound: np.ndarray) -> str:
    """A bound as text: one number if it is the same everywhere."""
    values = np.unique(bound)
    return f"{values[0]:g}" if len(values) == 1 else str(bound.tolist())


def parse_bounds(text: str, section: str) -> tuple[float, float]:
    """The numbers of "LOW,HIGH"; raises ValueError unless LOW < HIGH, both finite.

    section: of the config, whose field action_bounds has the text.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(
            f"env.action_bounds is {text!r}; expected LOW,HIGH, such as -1,1"
        )
    return low, high


def to_bounds(action, low, high):
    """Map actions from [-1, 1], after clipping, onto [low, high], elementwise."""
    share = (np.clip(np.asarray(action, np.float64), -1, 1) + 1) / 2
    return np.clip(low + share * (high - low), low, high)


def episode_seed(seed: int, episode: int) -> int:
    """The 32-bit seed of one episode."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def resized(image, size: int):
    """An image [h, w] or [h, w, channels] as [size, size, channels]."""
    if image.shape[:2] == (size, size):
        return image.reshape(size, size, -1)
    image = image.reshape(*image.shape[:2], -1)
    parts = []
    for i in range(0, image.shape[-1], 4):  # OpenCV takes four channels at most
        part = np.ascontiguousarray(image[..., i : i + 4])
        # Area averaging, or a ball of two pixels would vanish.
        part = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA)
        parts.append(part.reshape(size, size, -1))
    return np.concatenate(parts, -1)
