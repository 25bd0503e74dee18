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

    about = describe(controller, names, units, rate)
    write_json(folder / ABOUT, about)
    rows = [
        f"| {i} {x['name']} | {x['unit'] or 'unknown'} | "
        + " | ".join("none" if x[k] is None else f"{x[k]:g}" for k in ("low", "high"))
        + " |"
        for i, x in enumerate(about["action"])
    ]
    views = ", ".join(f"`{k}` {v[1]} {[1, *v[0]]}" for k, v in controller.views.items())
    sizes = {"steps": about["steps"], "width": len(rows), "rows": "\n".join(rows)}
    return artifacts.export_stablehlo(
        folder,
        {PROGRAM: (act, controller.specs())},
        weights,
        origin=origin,
        atol=ATOL,
        batch=1,
        title=title,
        what=WHAT,
        network="The model as it was evaluated, with its statistics of actions.",
        inputs=INPUTS.format(views=views, **sizes),
        config=config,
    )


def describe(controller: Controller, names, units, rate) -> dict[str, Any]:
    """What planner.json says: shapes of inputs, names of the state, units of actions.

    A bound that there is none of is null.
    """
    bounds = controller.low, controller.high
    low, high = (np.broadcast_to(x, controller.model.mean.shape) for x in bounds)
    specs, A = controller.specs(), len(low)
    name, unit = ([*x, *[""] * (A - len(x))] for x in (names, units))
    shapes = {
        k: {"shape": list(s.shape), "dtype": str(s.dtype)} for k, s in specs.items()
    }
    low, high = ([float(v) if np.isfinite(v) else None for v in x] for x in (low, high))
    action = [
        {"name": name[i], "unit": unit[i], "low": low[i], "high": high[i]}
        for i in range(A)
    ]
    return {
        "inputs": shapes,
        "state": [k for k in shapes if k.startswith(STATE)],
        "action": action,
        "steps": controller.execute * controller.model.skip,
        "rate": rate,
    }


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
