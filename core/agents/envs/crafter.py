"""Crafter, a survival game with sparse rewards (arXiv 2109.06780)."""

from core.agents.envs.env import episode_seed
from core.agents.spaces import Space
from core.base.packages import package, unknown


def make(name, *, seed, size):
    if name != "reward":
        raise unknown("task of crafter", name, ["reward"])
    return Crafter(package("crafter", suite="crafter"), seed, size)


class Crafter:
    """The game with its rewards; an episode ends by death or after 10,000 steps.

    Not reproducible beyond the beginning of an episode: the game removes creatures in an
    order that depends on memory addresses.
    """

    def __init__(self, crafter, seed, size):
        self.crafter, self.seed, self.size = crafter, seed, size
        classes = crafter.Env(seed=seed).action_space.n
        self.observations = {"image": Space((size, size, 3), "uint8")}
        self.actions = {"action": Space((), "int32", int(classes))}
        self.bounds = {}

    def reset(self, episode):
        # A game seeds its episodes by its own count: a new game starts at any of them.
        seed = episode_seed(self.seed, episode)
        self.game = self.crafter.Env(size=(self.size, self.size), seed=seed)
        self.image = self.game.reset()

    def advance(self, action):
        key = int(action["action"])
        self.image, reward, last, info = self.game.step(key)
        return reward, last, info["discount"] == 0

    def observe(self):
        return {"image": self.image}

    def picture(self):
        return self.image

    def close(self):
        pass
