"""A planner as one pure function for a robot: observation, goal and state -> next actions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.planning.goals import GoalModel, to_actions
from core.planning.plans import Guess, Planner, PlanSpace, shift

GOAL, STATE = "goal/", "state/"  # prefixes of inputs


class Controller(NamedTuple):
    """One robot's planner with a fixed budget.

    model: whose history is 1. low, high: bounds of an environment action [A]. execute:
    blocks that are carried out before the next plan. views: what is observed, name -> (shape
    without batch, dtype). seed: of the candidates.
    """

    model: GoalModel
    planner: Planner
    space: PlanSpace
    low: np.ndarray
    high: np.ndarray
    execute: int
    views: Mapping[str, tuple[tuple[int, ...], str]]
    seed: int = 0

    def specs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs of `act` by name: NAME, goal/NAME, and the state, which begins with zeros."""
        guess = jax.eval_shape(lambda: self.planner.begin(1))
        found = {}
        for name, (shape, dtype) in self.views.items():
            spec = jax.ShapeDtypeStruct((1, *shape), np.dtype(dtype))
            found |= {name: spec, GOAL + name: spec}
        state = {
            "plan": guess.actions,
            "turn": jax.ShapeDtypeStruct((1,), np.dtype("i4")),
        }
        state |= {"kept": guess.kept} if guess.kept.size else {}
        return found | {STATE + name: spec for name, spec in state.items()}

    def act(self, params: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The next actions [1, execute * skip, A] in units of the environment, and the state.

        found: bool [1], whether there was a candidate of finite cost; the actions hold
        still if not. cost: of the best candidate, 0 if there was none.
        """
        observed = {name: inputs[name][:, None] for name in self.views}
        goal = {name: inputs[GOAL + name] for name in self.views}
        width, turn = len(self.space.mean), inputs[STATE + "turn"]
        context = self.model.context(observed, jnp.zeros((1, 0, width)), goal)
        fresh = self.planner.begin(1)
        kept = inputs.get(STATE + "kept", fresh.kept)
        guess = Guess(inputs[STATE + "plan"], kept)
        begun = (turn > 0).reshape(1, 1, 1)
        guess = Guess(
            jnp.where(begun, guess.actions, fresh.actions),
            jnp.where(begun[..., None], guess.kept, fresh.kept),
        )
        key = jax.random.fold_in(jax.random.key(self.seed), turn[0])
        plan = self.planner.plan(params, context, key[None], guess)
        ahead = to_actions(self.model, plan.actions[:, : self.execute])
        later = shift(plan, self.execute, self.space)
        state = {STATE + "plan": later.actions, STATE + "turn": turn + 1}
        state |= {STATE + "kept": later.kept} if fresh.kept.size else {}
        return state | {
            "action": jnp.clip(ahead, self.low, self.high),
            "found": plan.found,
            "cost": jnp.where(plan.found, plan.cost, 0),
        }


def make_controller(
    model: GoalModel, planner: Planner, space: PlanSpace, *, execute: int, **rest: Any
) -> Controller:
    """A Controller. Raises ValueError for settings that a fixed program cannot follow."""
    if model.history != 1:
        raise ValueError(
            f"the model plans from {model.history} frames; a controller sees one, so that "
            "every call is alike: use 1"
        )
    H = planner.begin(1).actions.shape[1]
    if not 1 <= execute <= H:
        raise ValueError(f"execute is {execute} blocks; use 1 to {H}, the horizon")
    return Controller(model, planner, space, execute=execute, **rest)
