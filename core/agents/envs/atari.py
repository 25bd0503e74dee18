"""Atari games without sticky actions, for the 100,000-step protocol (arXiv 1903.00374)."""

import numpy as np

from core.agents.envs.env import episode_seed, resized
from core.agents.spaces import Space
from core.base.packages import package, unknown

MOST_NOOPS = 30  # frames without input before an episode begins
MOST_FRAMES = 108_000  # of an episode: half an hour of play


def make(name, *, seed, size):
    ale_py = package("ale_py", suite="atari")
    games = ale_py.roms.get_all_rom_ids()
    if name not in games:
        raise unknown("game of atari", name, games)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    console = ale_py.ALEInterface()
    console.setInt("random_seed", seed % 2**31)
    console.setFloat("repeat_action_probability", 0.0)
    console.loadROM(ale_py.roms.get_rom_path(name))
    return Atari(console, seed, size)


class Atari:
    """A game. An image is the maximum of the last two frames, since games draw some
    sprites only in every other frame.
    """

    def __init__(self, console, seed, size):
        self.console, self.seed, self.size = console, seed, size
        self.keys = console.getMinimalActionSet()
        self.observations = {"image": Space((size, size, 3), "uint8")}
        self.actions = {"action": Space((), "int32", len(self.keys))}
        self.bounds = {}

    def reset(self, episode):
        self.console.reset_game()
        rng = np.random.default_rng(episode_seed(self.seed, episode))
        for _ in range(rng.integers(MOST_NOOPS + 1)):
            self.console.act(0)
            if self.console.game_over():
                self.console.reset_game()
        self.count = 0
        self.before = self.now = self.console.getScreenRGB()

    def advance(self, action):
        reward = self.console.act(self.keys[int(action["action"])])
        self.count += 1
        self.before, self.now = self.now, self.console.getScreenRGB()
        terminal = self.console.game_over(with_truncation=False)
        return float(reward), terminal or self.count >= MOST_FRAMES, terminal

    def observe(self):
        return {"image": resized(np.maximum(self.before, self.now), self.size)}

    def picture(self):
        return self.observe()["image"]

    def close(self):
        pass
