"""Environments that count their steps, some of which break."""

import os
import sys
import time

import numpy as np

import core.agents.envs.make  # noqa: F401, so that what it imports is seen here as well
from core.agents.envs.env import flags
from core.agents.spaces import Space

AT = 5  # the step that breaks


def make(task, *, seed, size, repeat, **_):
    """KIND:SEED breaks if the seed is SEED; KIND alone always breaks."""
    kind, _, chosen = task.partition(":")
    if kind == "never":
        raise ValueError("the engine is out of order")
    return Counter(kind if not chosen or int(chosen) == seed else "", seed)


class Counter:
    """Observes the number of its step, its seed, and whether its process imported jax."""

    observations = {"count": Space((1,)), "seed": Space((1,)), "jax": Space(())}
    actions = {"action": Space((1,))}

    def __init__(self, kind, seed):
        self.kind, self.seed, self.count = kind, seed, -1

    def step(self, action):
        self.count = 0 if action["reset"] or self.count < 0 else self.count + 1
        found = {
            "count": np.array([self.count], np.float32),
            "seed": np.array([self.seed], np.float32),
            "jax": np.float32("jax" in sys.modules),
        }
        if self.count == AT or self.kind == "first":
            self.break_down(found)
        return found | flags(float(action["action"][0]), first=self.count == 0)

    def break_down(self, found):
        if self.kind in ("raises", "first"):
            raise RuntimeError("the arm came off")
        if self.kind == "hangs":
            time.sleep(1000)
        if self.kind == "exits":
            os._exit(7)
        if self.kind == "double":
            found["count"] = found["count"].astype(np.float64)
        if self.kind == "nan":
            found["count"] = found["count"] * np.nan

    def close(self):
        pass
