"""Plans of LeWorldModel put to use: their evaluation in a world, and export for a robot."""

import functools
from typing import NamedTuple

import numpy as np

from core.data import source_names
from core.data.pushing.goals import Pushing
from core.data.rooms import goals as rooms
from core.export.planner import export_planner
from core.planning.controller import make_controller
from core.planning.evaluate import Setting, make_plan_eval
from core.planning.goals import block_bounds
from core.planning.judging import Judging, Task
from core.planning.planners import make_planner
from core.planning.plans import make_space
from core.section import Section
from jepa.lewm_evals import weights_of
from jepa.lewm_plan import make_goal_model

# Worlds with goals by name: (pixels per side -> world, which problems are crossing).
WORLDS = {"two_rooms": (rooms.TwoRooms, rooms.crosses), "pushing": (Pushing, None)}


class Planning(NamedTuple):
    """The config's section `plan`; most fields are those of core.planning.judging.Judging.

    world: a name in WORLDS; "" if plans cannot be carried out here. window, last: as in
    lewm_plan.LatentGoal. tasks, crossing: {name: {"offset", "budget"}}; problems of
    `crossing` are those whose straight way is blocked, such as by the wall between rooms.
    """

    world: str
    window: int
    last: int
    tasks: Section
    crossing: Section
    planners: Section
    horizon: int
    execute: int
    problems: int
    seeds: int
    at_once: int
    bounded: bool
    std: float

    def check(self, history: int) -> None:
        """Raise ValueError for an unknown world and a window beyond the history."""
        if self.world and self.world not in WORLDS:
            raise ValueError(
                f"plan.world is {self.world!r}; use {', '.join(WORLDS)}, or nothing where "
                "plans cannot be carried out"
            )
        if self.crossing and self.world and WORLDS[self.world][1] is None:
            raise ValueError(
                f"plan.crossing names goals behind a wall, which {self.world} does not have; "
                "leave it empty"
            )
        if not 1 <= self.window <= history:
            raise ValueError(
                f"plan.window is {self.window}; use 1 to {history}, the history"
            )


def make_plan_evaluation(networks, plan: Planning, *, data: Section):
    """state -> what core.planning.evaluate.make_plan_eval finds, on validation episodes.

    data: the config's section of this name. Raises ValueError without a world.
    """

    def evaluate_tasks(model, tasks: Section, wanted):
        make_world, _ = WORLDS[plan.world]
        setting = Setting(
            world=functools.partial(make_world, networks.size),
            recordings=functools.partial(
                source_names.recordings, data["source"], "validation"
            ),
            wanted=wanted,
        )
        names = set(Judging._fields) - {"tasks", "planners"}
        how = Judging(
            tasks={name: Task(**task) for name, task in tasks.items()},
            planners={name: dict(numbers) for name, numbers in plan.planners.items()},
            **{name: getattr(plan, name) for name in names},
        )
        return make_plan_eval(model, weights_of, setting, how)

    def evaluate(state, watch):
        if not plan.world:
            raise ValueError(
                "plan.world is empty, so plans cannot be carried out; name one of "
                f"{', '.join(WORLDS)}, or other evaluations, such as --eval=health"
            )
        model = goal_model(networks, plan, state, data)
        found, tables = {}, []
        for tasks, wanted in (
            (plan.crossing, WORLDS[plan.world][1]),
            (plan.tasks, None),
        ):
            if tasks:
                found |= evaluate_tasks(model, tasks, wanted)(state, watch)
                tables.append(found["table"])
        return found | {"table": "\n".join(reversed(tables))}

    return evaluate


def goal_model(networks, plan: Planning, state, data: Section):
    """The GoalModel of a state, with its statistics of actions."""
    return make_goal_model(
        networks, state.actions, image=data["image"], window=plan.window, last=plan.last
    )


class Bounds(NamedTuple):
    """Bounds of environment actions [A], as `block_bounds` reads them."""

    low: np.ndarray
    high: np.ndarray


def recorded_bounds(about: dict, width: int) -> Bounds:
    """Of the parts of the action vector in `about` (core/data/episodes/action_parts.py).

    Infinite where the data does not say them.
    """
    low, high = [], []
    for part in about.get("action", ()):
        reals = "low" in part
        low += (
            part["low"] if reals else [0.0] * part.get("classes", part.get("agent", 0))
        )
        high += (
            part["high"] if reals else [1.0] * part.get("classes", part.get("agent", 0))
        )
    if len(low) != width:
        low, high = [None] * width, [None] * width
    return Bounds(
        np.array([-np.inf if x is None else x for x in low], np.float32),
        np.array([np.inf if x is None else x for x in high], np.float32),
    )


def make_planner_export(networks, plan: Planning, *, config: Section, about: dict):
    """(state, folder, origin) -> largest gap: the first of plan.planners as one program.

    about: of the recordings: bounds, names and units of actions, and their rate.
    """

    def export(state, folder, origin):
        model = goal_model(networks, plan, state, config["data"])
        bounds = recorded_bounds(about, networks.width)
        low, high = block_bounds(model, bounds)  # of blocks
        kind, numbers = next(iter(plan.planners.items()))
        settings = {"kind": kind} | dict(numbers)
        space = make_space(low, high, mean=0.0, std=plan.std)
        planner = make_planner(
            settings.pop("kind"),
            model.objective,
            space,
            horizon=plan.horizon,
            **settings,
        )
        side, name = networks.size, config["data"]["image"] or "image"
        controller = make_controller(
            model,
            planner,
            space,
            execute=plan.execute,
            low=bounds.low,
            high=bounds.high,
            views={name: ((side, side, 3), "uint8")},
        )
        unit = about.get("units", {}).get("action", "")
        return export_planner(
            controller,
            weights_of(state),
            folder,
            origin,
            config=config.to_dict(),
            title="LeWorldModel planner",
            names=about.get("names", {}).get("action", ()),
            units=[unit] * networks.width,
            rate=about.get("rate"),
        )

    return export
