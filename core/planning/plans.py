"""What all planners share: the space that they search, the plan they return, warm starts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class PlanSpace(NamedTuple):
    """The actions of every step of a plan. All fields are float32 [A].

    low, high: bounds; -inf and inf where there are none. mean, std: of the first
    candidates. hold: the action that is taken where no plan was found.
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    hold: np.ndarray

    def clip(self, plans):
        """Plans [..., A] within the bounds."""
        return jnp.clip(plans, self.low, self.high)


class Guess(NamedTuple):
    """Where a search begins, in jax or numpy. actions: [B, H, A]. kept: candidates [B, K, H, A]."""

    actions: Any
    kept: Any


class Plan(NamedTuple):
    """What a planner returns for B problems, in jax or numpy.

    actions: [B, H, A]; the first ones are actions[:, 0]. cost: lowest of the last round's
    candidates, [B]. found: bool [B], whether a candidate of finite cost was found;
    elsewhere `actions` hold still and the cost is infinite. kept: the best candidates
    [B, K, H, A], for the next search.
    """

    actions: Any
    cost: Any
    found: Any
    kept: Any


class Planner(NamedTuple):
    """A search for the best plan of H actions.

    plan: (params, context, key, guess=None) -> Plan, pure, for one jitted call. key: one,
    or one for each problem [B]; in the latter case a problem's plan does not depend on the
    problems beside it, but for rounding where B differs (core/planning/control.py:Solver
    removes that, too). Round i uses row_keys.fold(key, 1 + i); stream 0 is left to the
    caller, for exploration noise. guess: where to begin, as of `shift`.
    begin: B -> Guess, the one that `plan` begins with by default.
    """

    plan: Callable[..., Plan]
    begin: Callable[[int], Guess]


def make_space(low, high, *, mean=None, std=None, hold=None) -> PlanSpace:
    """A PlanSpace of bounds [A], -inf and inf where there are none.

    mean, std: by default the middle and half of the range; 0 and 1 where it is infinite.
    hold: 0 by default. mean and hold are brought within the bounds. Each is a number, or
    one for each of the A. Raises ValueError if the bounds exclude every action.
    """
    low, high = (np.atleast_1d(np.asarray(x, np.float32)) for x in (low, high))
    if low.shape != high.shape or low.ndim != 1:
        raise ValueError(
            f"bounds of actions: {len(low)} lower and {len(high)} upper ones; expected "
            "as many"
        )
    if len(wrong := np.flatnonzero(~(low <= high))):
        i = wrong[0]
        raise ValueError(
            f"bounds exclude every action: number {i} of an action is to be at least "
            f"{low[i]:g} and at most {high[i]:g}"
        )
    finite = np.isfinite(low) & np.isfinite(high)
    a, b = np.where(finite, low, -1), np.where(finite, high, 1)  # no inf - inf
    mean = np.where(finite, (a + b) / 2, 0) if mean is None else mean
    std = (b - a) / 2 if std is None else std
    mean, std, hold = (
        np.broadcast_to(np.asarray(x, np.float32), low.shape)
        for x in (mean, std, 0 if hold is None else hold)
    )
    if not (std >= 0).all():
        raise ValueError(f"std of the first candidates is {std.min():g}; use 0 or more")
    return PlanSpace(low, high, np.clip(mean, low, high), std, np.clip(hold, low, high))


def begin_search(space: PlanSpace, B: int, *, horizon: int, keep: int = 0) -> Guess:
    """The Guess that knows nothing: the mean of the first candidates."""
    H, A = horizon, len(space.mean)
    kept = jnp.broadcast_to(space.mean, (B, keep, H, A))
    return Guess(jnp.broadcast_to(space.mean, (B, H, A)), kept)


def shift(plan: Plan, executed: int, space: PlanSpace) -> Guess:
    """The unexecuted tail of a plan, filled up with the space's mean: the next Guess.

    executed: actions that were carried out since, 0 to H. Where no plan was found the
    guess is the mean.
    """

    def moved(x):
        ahead = x[..., executed:, :]
        rest = jnp.broadcast_to(space.mean, (*x.shape[:-2], executed, x.shape[-1]))
        found = plan.found.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(found, jnp.concatenate([ahead, rest], -2), space.mean)

    return Guess(moved(plan.actions), moved(plan.kept))


def finish(space: PlanSpace, actions, cost, found, kept=None) -> Plan:
    """The Plan of a search; holds still where no candidate of finite cost was found."""
    B, H, A = actions.shape
    actions = jnp.where(found[:, None, None], actions, space.hold)
    kept = jnp.zeros((B, 0, H, A), actions.dtype) if kept is None else kept
    return Plan(actions, jnp.where(found, cost, jnp.inf), found, kept)


def finite_cost(objective, params, start, plans, key):
    """The objective's cost [B, S] of plans [B, S, H, A], infinite where it is not finite."""
    cost = objective.cost(params, start, plans, key)
    assert cost.shape == plans.shape[:2], (cost.shape, plans.shape)
    return jnp.where(jnp.isfinite(cost), cost, jnp.inf)


def problems_of(start) -> int:
    """B of an encoded context [B, ...]."""
    return len(jax.tree.leaves(start)[0])


def check_counts(*, best: int, candidates: int, rounds: int, horizon: int):
    """Raise ValueError for numbers with which no planner can search."""
    for name, value in (("rounds", rounds), ("horizon", horizon)):
        if value < 1:
            raise ValueError(f"planner.{name} is {value}; use 1 or more")
    if not 1 <= best <= candidates:
        raise ValueError(
            f"planner.best is {best}; use 1 to {candidates}, the candidates"
        )
