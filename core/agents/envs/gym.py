"""Gymnasium environments whose spaces are boxes, discrete, or dicts of these."""

import numpy as np

from core.agents.envs.env import episode_seed, resized, to_bounds
from core.agents.envs.naming import package, unknown
from core.agents.spaces import Space
from core.base.text import one_line


def make(name, *, seed, size):
    gymnasium = package("gymnasium", suite="gym")
    # gymnasium imports MODULE of MODULE:NAME, which then registers the name.
    if ":" not in name and name not in gymnasium.registry:
        raise unknown("environment of gym", name, gymnasium.registry)
    try:
        # checks.py checks every step; gymnasium's checker warns about what we convert.
        environment = gymnasium.make(name, disable_env_checker=True)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"cannot make gym:{name}: {one_line(error)}") from error
    return Gym(gymnasium.spaces, environment, seed, size)


class Gym:
    """A gymnasium environment; a/b is the name of entry b in dict a."""

    def __init__(self, kinds, environment, seed, size):
        self.kinds, self.environment = kinds, environment
        self.seed, self.size = seed, size
        self.seen, self.observations = {}, {}
        for path, space in self.leaves(environment.observation_space):
            name = "/".join(path) or ("image" if is_image(space) else "state")
            self.seen[name] = path, space
            self.observations[name] = self.observed(space)
        self.actions = {}
        for path, space in self.leaves(environment.action_space):
            self.actions |= self.acted("/".join(path) or "action", space)

    def leaves(self, space, path=()):
        """[(path of keys, space)] of all spaces that are not dicts."""
        if not isinstance(space, self.kinds.Dict):
            return [(path, space)]
        parts = space.spaces.items()
        return [leaf for k, part in parts for leaf in self.leaves(part, (*path, k))]

    def observed(self, space):
        """The Space of an observation."""
        if isinstance(space, self.kinds.Discrete):
            return Space((), "int32", int(space.n))
        if isinstance(space, self.kinds.MultiDiscrete):
            return Space(space.shape, "int32", int(space.nvec.max()))
        if not isinstance(space, self.kinds.Box):
            raise unsupported(space)
        if is_image(space):
            return Space((self.size, self.size, space.shape[-1]), "uint8")
        return Space(space.shape or (1,))

    def acted(self, name, space):
        """{name: Space} of an action; one Space per choice if their numbers of classes
        differ.
        """
        if isinstance(space, self.kinds.Discrete):
            return {name: Space((), "int32", int(space.n))}
        if isinstance(space, self.kinds.MultiDiscrete):
            counts = [int(n) for n in space.nvec.flat]
            if len(set(counts)) == 1:
                return {name: Space(space.shape, "int32", counts[0])}
            return {f"{name}_{i}": Space((), "int32", n) for i, n in enumerate(counts)}
        if not isinstance(space, self.kinds.Box) or space.dtype.kind != "f":
            raise unsupported(space)
        return {name: Space(space.shape)}

    def reset(self, episode):
        seed = episode_seed(self.seed, episode)
        self.now, _ = self.environment.reset(seed=seed)

    def advance(self, action):
        native = self.native(action, self.environment.action_space)
        self.now, reward, terminal, cut, _ = self.environment.step(native)
        return float(reward), terminal or cut, terminal

    def native(self, action, space, path=()):
        """Actions by name as an element of the gymnasium space."""
        name = "/".join(path) or "action"
        if isinstance(space, self.kinds.Dict):
            parts = space.spaces.items()
            return {k: self.native(action, part, (*path, k)) for k, part in parts}
        if isinstance(space, self.kinds.Box):
            return to_bounds(action[name], space.low, space.high).astype(space.dtype)
        if isinstance(space, self.kinds.Discrete):
            return int(action[name] + space.start)
        parts = [action[k] for k in self.acted(name, space)]
        return np.reshape(parts, space.shape).astype(space.dtype) + space.start

    def observe(self):
        return {name: self.observe_one(name) for name in self.observations}

    def observe_one(self, name):
        (path, space), found = self.seen[name], self.now
        for key in path:
            found = found[key]
        if self.observations[name].is_discrete:
            return found - space.start
        if self.observations[name].is_image:
            return resized(found, self.size)
        return np.reshape(found, self.observations[name].shape)

    def picture(self):
        images = (name for name, space in self.observations.items() if space.is_image)
        name = next(images, None)
        return self.observe_one(name) if name else None

    def close(self):
        self.environment.close()


def is_image(space):
    return space.dtype == np.uint8 and len(space.shape) == 3


def unsupported(space):
    return ValueError(
        f"space {space} is not supported; expected Dict, Discrete, MultiDiscrete or Box, "
        "and reals in a Box of actions"
    )
