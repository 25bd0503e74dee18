"""iCEM: the cross-entropy method with colored noise and elites that stay (arXiv 2008.06389)."""

import functools

from core.planning.cem import search_elites
from core.planning.noise import colored
from core.planning.objective import Objective
from core.planning.plans import Plan, Planner, PlanSpace, begin_search, finish


def make_icem(
    objective: Objective,
    space: PlanSpace,
    *,
    horizon: int,
    candidates: int,
    best: int,
    rounds: int,
    momentum: float = 0.1,
    beta: float = 2.0,
    keep: int = 5,
) -> Planner:
    """A planner that returns the best candidate of the last round.

    As CEM, but noise is correlated in time, the mean and the `keep` best candidates of a
    round are candidates of the next, and those of the last round begin the next search,
    shifted. Unlike the paper, all rounds have as many candidates.

    Args:
      momentum: share of the old mean and deviation in the new ones.
      beta: power of 1/f in the noise's spectrum; 0 is white noise.
      keep: elites that stay, 0 to `best`. The rest is as in core/planning/cem.py.

    Raises ValueError for a number out of its range.
    """
    if not 0 <= keep <= best:
        raise ValueError(f"planner.keep is {keep}; use 0 to {best}, the best ones")
    search = search_elites(
        objective,
        space,
        horizon=horizon,
        candidates=candidates,
        best=best,
        rounds=rounds,
        momentum=momentum,
        mean_first=True,
        keep=keep,
        draw=functools.partial(colored, beta=beta),
    )

    def solve(params, context, key, guess=None) -> Plan:
        _, elites, cost, found = search(params, context, key, guess)
        return finish(space, elites[:, 0], cost, found, elites[:, :keep])

    begin = functools.partial(begin_search, space, horizon=horizon, keep=keep)
    return Planner(solve, begin)
