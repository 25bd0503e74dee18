"""Benchmark of a planner (`launch.bench --what=plan`): seconds per plan of B problems."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

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
        solve = jax.jit(planner.plan)
        found: dict[str, Any] = {}
        for word, B in (("", problems), ("_one", 1)):
            seen = {k: random(rng, (B, *s), d) for k, (s, d) in views.items()}
            frames = {k: x[:, None] for k, x in seen.items()}
            context = model.context(frames, np.zeros((B, 0, width), np.float32), seen)
            keys, times = jax.random.split(jax.random.key(0), B), []
            for _ in range(REPEATS + 1):
                begin = time.perf_counter()
                jax.block_until_ready(solve(params, context, keys))
                times.append(time.perf_counter() - begin)
            found[f"plan{word}_compile_seconds"] = times[0]
            found[f"plan{word}_seconds_median"] = float(np.median(times[1:]))
        per = found["plan_seconds_median"] / problems
        found |= {"plan_problems": problems, "plan_seconds_per_problem": per}
        return found

    return bench


def random(rng, shape, dtype) -> np.ndarray:
    """Random bytes, or standard normal numbers."""
    if np.dtype(dtype) == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape).astype(dtype)
