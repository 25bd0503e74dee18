"""The policy contract: what collection and episodes need of a method that acts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from core.agents import action_distributions
from core.agents.spaces import Space, Spaces, total_width
from core.data.episodes.steps import FLAGS

Shapes = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape, dtype) of a step


class Policy(NamedTuple):
    """How a method acts in E environments, as pure functions.

    first_carry: E -> carry, a pytree of arrays [E, ...]: what the policy remembers before
      its first step.
    act: (params, carry, observation, key) -> (action, carry, kept). `observation` has the
      arrays [E, ...] of the observation spaces and "is_first", bool [E]: an episode begins
      here, and what the carry holds of the one before must be ignored. `action` is a
      vector per environment, float32 [E, A] in the order of the action spaces, one-hot
      for discrete ones. `kept` has the arrays [E, ...] that `kept_shapes` names.
    kept_shapes: arrays that the replay keeps beside a step, such as recurrent states.
    updated_kept: state -> {name: [B, length, ...]}, newer values of the kept arrays for the
      windows of the last update's batch; None if an update computes none.
    """

    first_carry: Callable[[int], Any]
    act: Callable[..., tuple[jax.Array, Any, Mapping[str, jax.Array]]]
    kept_shapes: Mapping[str, tuple[tuple[int, ...], str]] = {}
    updated_kept: Callable[[Any], Mapping[str, jax.Array]] | None = None


def step_shapes(spaces: Spaces, actions: Spaces) -> Shapes:
    """Shapes and dtypes of a step in the replay, without what a policy keeps beside it."""
    shapes = {name: (space.shape, space.dtype) for name, space in spaces}
    shapes |= dict.fromkeys(FLAGS, ((), "bool"))
    return shapes | {
        "action": ((total_width(actions),), "float32"),
        "reward": ((), "float32"),
    }


def jit_policy(policy: Policy, actions: Spaces, *, seed: int) -> Callable:
    """One compiled step of acting: (params, carry, observation, i) -> (carry, named, kept).

    i: number of the step, int32; its key is fold_in(key(seed), i). named: actions by name,
    as environments take them. kept: the policy's, in the declared dtypes, and "action".
    """
    dtypes = {name: dtype for name, (_, dtype) in policy.kept_shapes.items()}

    def act(params, carry, observation, i):
        key = jax.random.fold_in(jax.random.key(seed), i)
        action, carry, kept = policy.act(params, carry, observation, key)
        kept = {name: kept[name].astype(dtype) for name, dtype in dtypes.items()}
        named = action_distributions.as_actions(actions, action)
        return carry, named, kept | {"action": action}

    return jax.jit(act)


def observed(spaces: Spaces, step: Mapping) -> dict:
    """The part of an environments' step that a policy is given."""
    return {name: step[name] for name in (*(name for name, _ in spaces), "is_first")}


def zero_actions(actions: Spaces, count: int) -> dict:
    """Actions by name for `count` environments that are to be reset."""

    def zeros(space: Space):
        dtype = np.int32 if space.is_discrete else np.float32
        return np.zeros((count, *space.shape), dtype)

    return {name: zeros(space) for name, space in actions}
