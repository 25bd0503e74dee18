"""Export of a planner for a robot: one program with the model, the search and all units."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from core.base.files import write_json
from core.base.nested import nest
from core.export import artifacts
from core.planning.controller import STATE, Controller

PROGRAM, ABOUT = "planner", "planner.json"
ATOL = 1e-3  # of actions: two compilations of a search round differently

WHAT = """\
Given what a robot sees and a picture of the goal, one call returns the next actions: the
latents are predicted, a fixed number of plans is compared, and the best one is begun."""
INPUTS = """\
One robot at a time; every array has a leading axis of 1. `planner.json` has all shapes.

- inputs: {views}, what is seen now, and the same with the prefix `goal/`; `state/...`, zeros
  at first, then what the last call returned.
- `action` [1, {steps}, {width}]: the next {steps} actions, each to be carried out for one
  control step, in units of the environment, within the bounds below. They are no longer
  normalized.
- `found`: false if no plan had a finite cost; the actions then hold still. `cost`: of the
  best plan.

| number of an action | unit | least | most |
|---|---|---|---|
{rows}"""


def export_planner(
    controller: Controller,
    params: Any,
    folder,
    origin: dict,
    *,
    config: Mapping[str, Any],
    title: str,
    names: Sequence[str] = (),
    units: Sequence[str] = (),
    rate: float | None = None,
) -> float:
    """Write planner.stablehlo, planner.json, weights and a card; returns the largest gap.

    Args:
      params: of the controller's model, a tree of float32 arrays.
      names, units: of the numbers of an action, in order, as far as known.
      rate: control steps per second in the training data, if known.

    Raises ValueError if the program differs from the live one once it is read back.
    """
    folder = pathlib.Path(folder)
    weights, restore = as_nested(params)

    def act(weights, inputs):
        return controller.act(restore(weights), inputs)

    low, high = (
        np.broadcast_to(x, controller.model.mean.shape) for x in controller[3:5]
    )
    A, specs = len(low), controller.specs()
    known = [list(x) + [""] * (A - len(x)) for x in (names, units)]
    action = [
        {
            "name": known[0][i],
            "unit": known[1][i],
            "low": float(low[i]),
            "high": float(high[i]),
        }
        for i in range(A)
    ]
    steps = controller.execute * controller.model.skip
    shapes = {
        k: {"shape": list(s.shape), "dtype": str(s.dtype)} for k, s in specs.items()
    }
    about = {"inputs": shapes, "action": action, "steps": steps, "rate": rate}
    about["state"] = [k for k in shapes if k.startswith(STATE)]
    write_json(folder / ABOUT, about)
    rows = [
        "| {} {} | {} | {:g} | {:g} |".format(
            i, x["name"], x["unit"] or "unknown", x["low"], x["high"]
        )
        for i, x in enumerate(action)
    ]
    views = ", ".join(f"`{k}` {v[1]} {[1, *v[0]]}" for k, v in controller.views.items())
    return artifacts.export_stablehlo(
        folder,
        {PROGRAM: (act, specs)},
        weights,
        origin=origin,
        atol=ATOL,
        batch=1,
        title=title,
        what=WHAT,
        network="The model as it was evaluated, with its statistics of actions.",
        inputs=INPUTS.format(views=views, steps=steps, width=A, rows="\n".join(rows)),
        config=config,
    )


def as_nested(params: Any) -> tuple[dict, Callable[[dict], Any]]:
    """(nested dicts of the leaves of any tree, function that makes the tree of them)."""
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths]
    nested = nest(
        {name: np.asarray(x) for name, (_, x) in zip(names, paths, strict=True)}
    )

    def restore(weights):
        flat = artifacts.flatten(weights)
        return jax.tree.unflatten(tree, [flat[name] for name in names])

    return nested, restore
