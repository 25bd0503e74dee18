"""Benchmark of a planner (`launch.bench --what=plan`): seconds per plan of B problems."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from core.planning.control import Solver, time_plans, to_numpy
from core.planning.goals import GoalModel
from core.planning.planners import make_planner
from core.planning.plans import make_space

REPEATS = 5


def make_plan_bench(
    model: GoalModel,
    make_params: Callable[[], Any],
    views: Mapping[str, tuple[tuple[int, ...], str]],
    *,
    horizon: int = 5,
    problems: int = 8,
    kind: str = "cem",
    **settings: Any,
) -> Callable[[], dict[str, Any]]:
    """() -> numbers by name: compilation, and the median of REPEATS plans after it.

    Args:
      make_params: of the model's functions; random weights serve.
      views: what is observed, name -> (shape without batch, dtype); random in the benchmark.
      settings: of the planner `kind`; those of CEM in LeWorldModel (arXiv 2603.19312) by
        default: 300 candidates, 30 rounds, 30 elites.
    """
    published = {"candidates": 300, "best": 30, "rounds": 30, "mean_first": True}
    settings = settings or (published if kind == "cem" else {})

    def bench():
        rng, params = np.random.default_rng(0), make_params()
        width = model.width
        space = make_space(np.full(width, -np.inf), np.full(width, np.inf))
        planner = make_planner(
            kind, model.objective, space, horizon=horizon, **settings
        )
        found: dict[str, Any] = {}
        for word, B in (("", problems), ("_one", 1)):
            seen = {k: random(rng, (B, *s), d) for k, (s, d) in views.items()}
            frames = {k: x[:, None] for k, x in seen.items()}
            context = model.context(frames, np.zeros((B, 0, width), np.float32), seen)
            keys = np.asarray(
                jax.random.key_data(jax.random.split(jax.random.key(0), B))
            )
            solver = Solver(planner, params, at_once=B)
            given = context, keys, to_numpy(planner.begin(B))
            first, *times = time_plans(solver, *given, repeats=REPEATS)
            found[f"plan{word}_compile_seconds"] = first
            found[f"plan{word}_seconds_median"] = float(np.median(times))
        per = found["plan_seconds_median"] / problems
        found |= {"plan_problems": problems, "plan_seconds_per_problem": per}
        return found

    return bench


def random(rng, shape, dtype) -> np.ndarray:
    """Random bytes, or standard normal numbers."""
    if np.dtype(dtype) == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape).astype(dtype)
