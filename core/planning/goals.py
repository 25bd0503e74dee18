"""Goals: the worlds in which plans are carried out, and what a model brings to plan there.

Units: an environment action has A numbers. A model acts in blocks of `skip` environment
actions, normalized and concatenated in time: one block has skip * A numbers. Of a model
whose actions are held, a block is one environment action, A numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from core.planning.objective import Objective

Arrays = Mapping[str, np.ndarray]


class GoalWorld(Protocol):
    """B problems side by side, in a simulator that can be put into any recorded state. Numpy.

    low, high: bounds of an environment action [A].
    state_names: arrays of a recording (core/data/episodes/steps.py) that make a state,
      such as ("log/state",).
    """

    @property
    def low(self) -> np.ndarray: ...
    @property
    def high(self) -> np.ndarray: ...
    @property
    def state_names(self) -> tuple[str, ...]: ...

    def reset(self, states: Arrays) -> None:
        """Problem b is in the state states[name][b] for each of `state_names`; sets B."""
        ...

    def observe(self) -> dict[str, np.ndarray]:
        """What is seen now, [B, ...] by name, as in recordings: "image" uint8 [B, h, w, 3]."""
        ...

    def step(self, actions: np.ndarray) -> None:
        """One environment step of all problems; actions [B, A], clipped to the bounds."""
        ...

    def reached(self, goals: Arrays) -> np.ndarray:
        """Whether each problem is now where its goal state is, bool [B]."""
        ...

    def distance(self, goals: Arrays) -> np.ndarray:
        """How far each problem is now from its goal state, float [B]; 0 is nearest."""
        ...


class GoalModel(NamedTuple):
    """What a method brings to be planned with. Pure functions.

    objective: cost of plans [B, S, H, width], of blocks.
    context: (observed, blocks, goal) -> the objective's context. Picks, checks and reshapes
      arrays, of numpy or traced by jit (in an export). observed: the last n frames, `skip`
      environment steps apart, [B, n, ...] by name, 1 <= n <= history. blocks: normalized
      actions between them, [B, n - 1, width]. goal: what is observed in the goal state,
      [B, ...] by name. Raises ValueError for sizes that differ.
    encode: (params, frames [B, n, ...] by name) -> latents [B, n, ...].
    roll: (params, start, plans [B, S, H, width]) -> predicted latents [B, S, H, ...]
      after each block; start: what `objective.encode` returns.
    mean, std: [A], of environment actions in training; normalized = (action - mean) / std.
    skip: environment steps of a block. history: most frames of a context.
    held: whether a block is one action for all its steps; a recorded block is their mean.
    """

    objective: Objective
    context: Callable[[Mapping[str, Any], Any, Mapping[str, Any]], Any]
    encode: Callable[[Any, Any], jax.Array]
    roll: Callable[[Any, Any, jax.Array], jax.Array]
    mean: np.ndarray
    std: np.ndarray
    skip: int = 1
    history: int = 1
    held: bool = False

    @property
    def width(self) -> int:
        """Numbers of a block."""
        return len(self.mean) * (1 if self.held else self.skip)


def to_blocks(model: GoalModel, actions: np.ndarray) -> np.ndarray:
    """Environment actions [..., n * skip, A] -> normalized blocks [..., n, width]."""
    *lead, T, A = actions.shape
    if A != len(model.mean):
        raise ValueError(
            f"actions have {A} numbers; the model's have {len(model.mean)}"
        )
    if T % model.skip:
        raise ValueError(f"{T} actions are no blocks of {model.skip}")
    x = ((actions - model.mean) / model.std).reshape(
        *lead, T // model.skip, model.skip, A
    )
    x = x.mean(-2) if model.held else x.reshape(*lead, T // model.skip, model.width)
    return x.astype(np.float32)


def to_actions(model: GoalModel, blocks: np.ndarray) -> np.ndarray:
    """Normalized blocks [..., n, width] -> environment actions [..., n * skip, A]."""
    *lead, n, width = blocks.shape
    A = len(model.mean)
    if width != model.width:
        raise ValueError(f"blocks have {width} numbers; expected {model.width}")
    if model.held:
        blocks = blocks[..., None, :] * np.ones((model.skip, 1), np.float32)
    x = blocks.reshape(*lead, n * model.skip, A)
    return (x * model.std + model.mean).astype(np.float32)


def block_bounds(model: GoalModel, world: GoalWorld) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of the world's actions as normalized blocks [width]."""
    low, high = (
        to_blocks(model, np.tile(np.asarray(x, np.float32), (model.skip, 1)))[0]
        for x in (world.low, world.high)
    )
    return low, high


def check_views(observed: Arrays, goal: Arrays) -> None:
    """Raise ValueError if what is observed, [B, n, ...], and the goal, [B, ...], differ in
    size, or a number is not finite.
    """
    for what, views, lead in (("observation", observed, 2), ("goal", goal, 1)):
        for name, x in views.items():
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise ValueError(f"{what} {name!r} has a number that is not finite")
            if name in goal and x.shape[lead:] != goal[name].shape[1:]:
                raise ValueError(
                    f"observation {name!r} is {list(x.shape[lead:])}, but in the goal "
                    f"{list(goal[name].shape[1:])}; expected the same size"
                )
