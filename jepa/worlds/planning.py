"""Plans of world models put to use: their evaluation in a world, and export for a robot."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from core.data.arm.goals import Arm
from core.data.pushing.goals import Pushing
from core.data.rooms import goals as rooms
from core.data.simulated.goals import SimulatedGoals
from core.data.simulated.simulator import is_task
from core.export.planner import export_planner
from core.parallel.layouts import unbox
from core.planning.benches import make_plan_bench
from core.planning.controller import make_controller
from core.planning.evaluate import Setting, make_plan_eval
from core.planning.goals import GoalModel, block_bounds
from core.planning.judging import Judging, Task
from core.planning.planners import make_planner
from core.planning.plans import make_space
from core.section import Section
from jepa.worlds.stored_features import with_pictures

# Worlds with goals by name: (pixels per side -> world, whether its straight ways are blocked,
# such as by the wall between rooms: (starts, goals) -> bool [B]).
WORLDS = {
    "two_rooms": (rooms.TwoRooms, rooms.crosses),
    "pushing": (Pushing, None),
    "arm": (Arm, None),
}
WAYS = ("any", "clear", "blocked")
TASKS = "dmc:TASK, gym:TASK"  # other worlds (core/data/simulated/simulator.py)


class Acting(NamedTuple):
    """What plans need of a method.

    title: of the model card. goal_model: state -> GoalModel. params_of: state -> params of
    its functions. source: name of the trajectories. views: what is observed, name -> (shape,
    dtype). size: pixels per side of pictures. width: numbers of an environment action.
    """

    title: str
    goal_model: Callable[[Any], GoalModel]
    params_of: Callable[[Any], Any]
    source: str
    views: Mapping[str, tuple[tuple[int, ...], str]]
    size: int
    width: int


def picture_views(names: Sequence[str], size: int) -> dict:
    """Acting.views of pictures; "" is "image"."""
    return {name or "image": ((size, size, 3), "uint8") for name in names}


class Planning(NamedTuple):
    """The config's section `plan`; most fields are those of core.planning.judging.Judging.

    world: a name in WORLDS, or dmc:TASK or gym:TASK as of core.data.simulated.simulator; "" if
    plans cannot be carried out here. window: frames that a
    predicted step sees. last: of the horizon's blocks that the cost counts; 0 for all.
    tasks: {name: {"offset", "budget", "way", "apart"}}; way: "clear" or "blocked" for problems
    whose straight way is so, "any" by default; the rest is that of core.planning.judging.Task.
    exported: the name among `planners` of that in an export and the benchmark.
    """

    world: str
    window: int
    last: int
    tasks: Section
    planners: Section
    exported: str
    horizon: int
    execute: int
    problems: int
    seeds: int
    at_once: int
    bounded: bool
    std: float

    def check(self, history: int) -> None:
        """Raise ValueError for an unknown world, a window or a cost that is too long."""
        if self.world and self.world not in WORLDS and not is_task(self.world):
            raise ValueError(
                f"plan.world is {self.world!r}; use {', '.join(WORLDS)}, {TASKS}, or nothing "
                "where plans cannot be carried out"
            )
        for task in self.tasks.values():
            make_task(self.world, task)
        if self.exported not in self.planners:
            raise ValueError(
                f"plan.exported is {self.exported!r}; use {', '.join(self.planners)}, the "
                "names in plan.planners"
            )
        if not 1 <= self.window <= history:
            raise ValueError(
                f"plan.window is {self.window}; use 1 to {history}, the history"
            )
        if not 0 <= self.last <= self.horizon:
            raise ValueError(
                f"plan.last is {self.last}; use 1 to {self.horizon}, the horizon, or 0 for all "
                "its blocks"
            )


def make_plan_evaluation(acting: Acting, plan: Planning):
    """state -> what core.planning.evaluate.make_plan_eval finds, on validation episodes.

    Raises ValueError without a world.
    """

    def evaluate(state, watch):
        if not plan.world:
            raise ValueError(
                "plan.world is empty, so plans cannot be carried out; name one of "
                f"{', '.join(WORLDS)}, {TASKS}, or other evaluations, such as --eval=health"
            )
        setting = setting_of(plan.world, acting)
        names = set(Judging._fields) - {"tasks", "planners"}
        how = Judging(
            tasks={k: make_task(plan.world, task) for k, task in plan.tasks.items()},
            planners={name: dict(numbers) for name, numbers in plan.planners.items()},
            **{name: getattr(plan, name) for name in names},
        )
        model = acting.goal_model(state)
        return make_plan_eval(model, acting.params_of, setting, how)(state, watch)

    return evaluate


def setting_of(world: str, acting: Acting) -> Setting:
    """Where plans are carried out. States can be sampled in simulated tasks."""
    recordings = functools.partial(with_pictures, acting.source, "validation")
    if world in WORLDS:
        return Setting(functools.partial(WORLDS[world][0], acting.size), recordings)
    there = SimulatedGoals(world, acting.size)
    return Setting(lambda: there, recordings, there.sample)


def make_task(world: str, task: Section) -> Task:
    """A task of the config; raises ValueError for an unknown `way`, or one of a world
    without obstacles.
    """
    way = task["way"] if "way" in task else "any"
    place = task.where("way")
    if way not in WAYS:
        raise ValueError(f"{place} is {way!r}; use one of {', '.join(WAYS)}")
    wanted = None
    if world and way != "any":
        blocked = WORLDS[world][1] if world in WORLDS else None
        if blocked is None:
            raise ValueError(
                f"{place} is {way!r}, but no way is blocked in {world}; use 'any'"
            )
        wanted = {
            "blocked": blocked,
            "clear": lambda starts, goals: ~blocked(starts, goals),
        }[way]
    return task.without("way").into(Task, wanted=wanted)


def bench_plans(acting: Acting, plan: Planning, init):
    """() -> numbers of core.planning.benches, with random weights and `plan.exported`.

    init: key -> boxed state.
    """

    def bench():
        state = jax.jit(lambda key: unbox(init(key)))(jax.random.key(0))
        settings = {"kind": plan.exported} | dict(plan.planners[plan.exported])
        return make_plan_bench(
            acting.goal_model(state),
            lambda: acting.params_of(state),
            acting.views,
            horizon=plan.horizon,
            **settings,
        )()

    return bench


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


def make_planner_export(
    acting: Acting, plan: Planning, *, config: Section, records: Callable[[], Any]
):
    """(state, folder, origin) -> largest gap: plan.exported as one program.

    records: () -> those of training, whose `about` has bounds, names and units of actions.
    """

    def export(state, folder, origin):
        model, known = acting.goal_model(state), getattr(records(), "about", {})
        bounds = recorded_bounds(known, acting.width)
        low, high = block_bounds(model, bounds)  # of blocks
        settings = {"kind": plan.exported} | dict(plan.planners[plan.exported])
        space = make_space(low, high, mean=0.0, std=plan.std)
        planner = make_planner(
            settings.pop("kind"),
            model.objective,
            space,
            horizon=plan.horizon,
            **settings,
        )
        controller = make_controller(
            model,
            planner,
            space,
            execute=plan.execute,
            low=bounds.low,
            high=bounds.high,
            views=acting.views,
        )
        unit = known.get("units", {}).get("action", "")
        return export_planner(
            controller,
            acting.params_of(state),
            folder,
            origin,
            config=config.to_dict(),
            title=f"{acting.title} planner",
            names=known.get("names", {}).get("action", ()),
            units=[unit] * acting.width,
            rate=known.get("rate"),
        )

    return export
