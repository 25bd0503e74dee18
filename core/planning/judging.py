"""Settings of an evaluation of plans, and the table of its findings."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from core.base.text import short
from core.planning.goals import Arrays


class Task(NamedTuple):
    """Goals of one kind. offset: environment steps from start to goal in a recording; 0 for
    sampled states. budget: environment steps to reach it in. apart: least distance of start
    and goal, in the world's measure. wanted: which problems are of interest, as of
    `recorded_problems`; all by default.
    """

    offset: int
    budget: int
    apart: float = 0.0
    wanted: Callable[[Arrays, Arrays], np.ndarray] | None = None


class Judging(NamedTuple):
    """How plans are evaluated.

    tasks: name -> Task. planners: name -> settings of core/planning/planners.py, among them
    "kind" if the name is not that of a planner. horizon: blocks of a plan. execute: blocks
    that are carried out before the next plan. problems: per seed and task. seeds: how many.
    at_once: problems solved together, on an accelerator in one program. bounded: whether
    planners know the bounds of actions; else they are only clipped as they are carried out.
    std: deviation of the first candidates in normalized actions, their mean being 0; 0 for
    half of the bounds.
    """

    tasks: Mapping[str, Task]
    planners: Mapping[str, Mapping[str, Any]]
    horizon: int = 5
    execute: int = 5
    problems: int = 100
    seeds: int = 3
    at_once: int = 8
    bounded: bool = True
    std: float = 1.0


def table(rows, found: Mapping[str, Any], how: Judging) -> str:
    """The Markdown table of all rows, with what the numbers mean below it."""
    lines = [
        "| goals | row | success | 95% interval | steps | ms per plan | ms for one |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, row, x in rows:
        span = f"{100 * x['success_low']:.1f} to {100 * x['success_high']:.1f}"
        times = [
            short(found[k]) if (k := f"{row}/{w}") in found else ""
            for w in ("ms", "ms_one")
        ]
        lines.append(
            f"| {task} | {row} | {100 * x['success']:.1f} | {span} | {x['steps']:.1f} | "
            f"{times[0]} | {times[1]} |"
        )
    lines += [
        "",
        f"Success in percent of {how.seeds} x {how.problems} problems, at any step within "
        f"the budget. A plan has {how.horizon} blocks, of which {how.execute} are carried "
        f"out. Milliseconds are for {how.at_once} problems together, and for one.",
        "",
    ]
    for task, goals in how.tasks.items():
        share = 100 * found[f"{task}/solved_at_start"]
        ahead = f"{goals.offset} steps ahead" if goals.offset else "sampled"
        ahead += f", at least {goals.apart} away" if goals.apart else ""
        lines.append(
            f"- {task}: goals {ahead}, budget {goals.budget} steps; {share:.1f}% of the "
            "drawn problems were solved at the start and are left out."
        )
    lines.append(
        f"- rank correlation of cost and distance: {found['cost_distance']:.2f}"
    )
    if "shuffled" in found:
        ratio = [short(x) for k, x in found.items() if k.startswith("open_loop/")]
        lines += [
            f"- open-loop error over that of copying, by block: {', '.join(ratio)}",
            f"- error with the actions of other windows: {short(found['shuffled'])} times",
        ]
    return "\n".join(lines) + "\n"
