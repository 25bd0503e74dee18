"""Evaluates plans: success in a world, beside random and recorded actions; what costs and
predictions are worth; time per plan; films. One core.method.Eval for all models.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from core.method import UNWATCHED, Watch
from core.planning import control, diagnose, films
from core.planning.goals import Arrays, GoalModel, GoalWorld, block_bounds, to_blocks
from core.planning.judging import Judging, Task, table
from core.planning.planners import make_planner
from core.planning.plans import PlanSpace, make_space
from core.planning.problems import Problems, recorded_problems, sampled_problems
from core.planning.scores import wilson

RANDOM, REPLAY = "random", "replay"  # rows beside the planners
PICTURED = 4  # problems in films
RANKED, RANKED_PLANS = 32, 32  # problems and plans each of the rank correlation
WINDOWS = 256  # of open-loop errors
TIMED = 5  # plans that are timed


class Setting(NamedTuple):
    """Where plans are evaluated.

    world: () -> the world. recordings: () -> held-out episodes. sample: as of
    `sampled_problems`, for tasks of offset 0.
    """

    world: Callable[[], GoalWorld]
    recordings: Callable[[], Any] | None = None
    sample: Callable[[np.random.Generator], tuple[Arrays, Arrays]] | None = None


def make_plan_eval(
    model: GoalModel, params_of: Callable[[Any], Any], setting: Setting, how: Judging
):
    """The evaluation "plan": state -> numbers, films and a table.

    params_of: state -> params of the model's functions.

    Numbers: TASK/ROW/success with _low and _high, ends of Wilson's 95% interval over all
    seeds; TASK/solved_at_start, the share of drawn problems that are left out because they
    are; ROW/ms and ROW/ms_one, milliseconds per plan of `at_once` problems and of one;
    cost_distance; open_loop/BLOCK and shuffled, errors over that of copying the first frame
    and over that with the right actions.
    """
    check_judging(how, setting)

    def evaluate(state, watch: Watch = UNWATCHED):
        params, world = params_of(state), setting.world()
        recordings = setting.recordings() if setting.recordings else None
        space = space_of(model, world, how)
        solvers = {
            name: make_solver(model, params, space, name, settings, how)
            for name, settings in how.planners.items()
        }
        found, rows, alarms = {}, [], []
        for task, goals in how.tasks.items():
            sets = [
                draw(goals, setting, world, recordings, how, s)
                for s in range(how.seeds)
            ]
            share = float(np.mean([x.solved for x in sets]))
            found[f"{task}/solved_at_start"] = share
            for row in (RANDOM, *([REPLAY] if goals.offset else []), *solvers):
                watch.say(f"{task}: {row}")
                run = Run(world, model, space, solvers.get(row), row, goals, how)
                numbers = success_of(
                    [run.outcome(x, i, watch) for i, x in enumerate(sets)]
                )
                found |= {f"{task}/{row}/{k}": v for k, v in numbers.items()}
                rows.append((task, row, numbers))
                if lost := numbers["without_plan"]:
                    alarms.append(
                        f"{task}: {row} found no plan of finite cost in {100 * lost:.1f}% of "
                        "the problems, and held still there"
                    )
                if row in solvers:
                    found |= run.film(sets[0], task, watch)
        problems = sets[0]  # of the last task
        for name, solver in solvers.items():
            found |= times_of(name, solver, world, model, problems, how)
        watch.say("cost and predictions")
        found |= worth(world, problems, model, params, space, recordings, how)
        found |= {"alarms": alarms} if alarms else {}
        return found | {"table": table(rows, found, how)}

    return evaluate


def check_judging(how: Judging, setting: Setting) -> None:
    """Raise ValueError for settings that exclude each other."""
    if not 1 <= how.execute <= how.horizon:
        raise ValueError(
            f"execute is {how.execute} blocks; use 1 to {how.horizon}, the horizon"
        )
    if not how.tasks or not how.planners:
        raise ValueError("plans are evaluated with at least one task and one planner")
    for name, task in how.tasks.items():
        if task.budget < 1 or task.offset < 0:
            raise ValueError(
                f"task {name!r}: budget is to be 1 or more, offset 0 or more"
            )
        if task.offset and setting.recordings is None:
            raise ValueError(
                f"task {name!r} has goals {task.offset} steps ahead, but there are no "
                "recordings; use offset 0"
            )
        if not task.offset and setting.sample is None:
            raise ValueError(
                f"task {name!r} has offset 0, but no states can be sampled"
            )


def space_of(model: GoalModel, world: GoalWorld, how: Judging) -> PlanSpace:
    """Normalized blocks: bounds of the world if the planner is to know them."""
    low, high = block_bounds(model, world)
    still = np.clip(np.zeros_like(world.low), world.low, world.high)
    hold = to_blocks(model, np.tile(still, (model.skip, 1)))[0]
    if not how.bounded:
        low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
    if not how.std:
        return make_space(low, high, hold=hold)
    return make_space(low, high, mean=0, std=how.std, hold=hold)


def make_solver(model, params, space, name, settings, how: Judging) -> control.Solver:
    """The planner of one row."""
    rest = dict(settings)
    kind = rest.pop("kind", name)
    planner = make_planner(kind, model.objective, space, horizon=how.horizon, **rest)
    return control.Solver(planner, params, at_once=how.at_once)


def draw(
    task: Task, setting: Setting, world, recordings, how: Judging, seed
) -> Problems:
    """The problems of a seed."""
    words = {"count": how.problems, "seed": seed, "apart": task.apart}
    words["wanted"] = task.wanted
    if not task.offset:
        assert setting.sample is not None  # by check_judging
        return sampled_problems(setting.sample, world, **words)
    return recorded_problems(recordings, world, offset=task.offset, **words)


class Run(NamedTuple):
    """One row of a task: who acts, and for how long."""

    world: GoalWorld
    model: GoalModel
    space: PlanSpace
    solver: control.Solver | None
    row: str
    task: Task
    how: Judging

    def policy(self, problems: Problems, seed: int):
        """A new policy for these problems."""
        if self.solver is None:
            if self.row == REPLAY:
                return control.replay_policy(self.world, problems)
            return control.random_policy(self.world, problems, budget=self.task.budget)
        return control.PlanningPolicy(
            self.world, problems, self.model, self.space, self.solver,
            execute=self.how.execute, seed=seed,
        )  # fmt: skip

    def outcome(
        self, problems: Problems, seed: int, watch: Watch, *, film: bool = False
    ):
        """(Outcome, bool [P]: problems for which a plan was not found)."""
        policy = self.policy(problems, seed)
        done = control.carry_out(
            self.world,
            problems,
            policy,
            budget=self.task.budget,
            film=film,
            watch=watch,
        )
        return done, getattr(policy, "lost", np.zeros(len(problems), bool))

    def film(
        self, problems: Problems, task: str, watch: Watch
    ) -> dict[str, np.ndarray]:
        """A contact sheet and a film of the first problems."""
        few = problems.take(np.arange(min(PICTURED, len(problems))))
        done, _ = self.outcome(few, 0, watch, film=True)
        goals = control.goal_views(self.world, few)["image"]
        steps = np.where(done.success, done.steps, self.task.budget + 1)
        assert done.film is not None
        shown = done.film, goals, steps, self.task.budget + 1
        name = f"{task}_{self.row}".replace("/", "_")
        return {f"plan_{name}": films.contact_sheet(*shown),
                f"film_{name}": films.film_of(*shown)}  # fmt: skip


def success_of(
    outcomes: Sequence[tuple[control.Outcome, np.ndarray]],
) -> dict[str, float]:
    """Success over all seeds with Wilson's interval; mean steps, distance, plans not found."""
    success = np.concatenate([x.success for x, _ in outcomes])
    low, high = wilson(int(success.sum()), len(success))
    by_seed = [float(x.success.mean()) for x, _ in outcomes]
    return {
        "success": float(success.mean()),
        "success_low": low,
        "success_high": high,
        "success_std_of_seeds": float(np.std(by_seed, ddof=1))
        if len(by_seed) > 1
        else 0.0,
        "steps": float(np.concatenate([x.steps for x, _ in outcomes]).mean()),
        "distance": float(np.concatenate([x.distance for x, _ in outcomes]).mean()),
        "without_plan": float(np.concatenate([x for _, x in outcomes]).mean()),
        "problems": float(len(success)),
    }


def times_of(
    name: str, solver: control.Solver, world, model, problems, how: Judging
) -> dict[str, float]:
    """Milliseconds per plan, for `at_once` problems together and for one."""
    found = {}
    for word, n in (("ms", how.at_once), ("ms_one", 1)):
        one = control.Solver(solver.planner, solver.params, at_once=n)
        some = problems.take(np.arange(n) % len(problems))
        goal = control.goal_views(world, some)
        seen = {k: x[:, None] for k, x in world.observe().items()}
        guess = control.to_numpy(one.planner.begin(n))
        blocks = np.zeros((n, 0, guess.actions.shape[-1]), np.float32)
        given = model.context(seen, blocks, goal), control.problem_keys(some, 0), guess
        times = control.time_plans(one, *given, repeats=TIMED)
        found[f"{name}/{word}"] = 1e3 * float(np.median(times[1:]))
    return found


def worth(world, problems, model, params, space, recordings, how: Judging) -> dict:
    """Rank correlation of cost and distance; open-loop errors, if there are recordings."""
    few = problems.take(np.arange(min(RANKED, len(problems))))
    words = {"horizon": how.horizon, "seed": 0}
    ranks = diagnose.cost_distance(
        world, few, model, params, space, plans=RANKED_PLANS, **words
    )
    found = {
        "cost_distance": float(np.nanmean(ranks))
        if np.isfinite(ranks).any()
        else np.nan
    }
    if recordings is None:
        return found
    windows = diagnose.read_windows(recordings, model, count=WINDOWS, **words)
    errors = diagnose.open_loop(model, params, *windows)
    ratio = errors["predicted"] / np.maximum(errors["copied"], 1e-12)
    found |= {f"open_loop/{h + 1}": float(x) for h, x in enumerate(ratio)}
    right = max(float(errors["predicted"].mean()), 1e-12)
    return found | {"shuffled": float(errors["shuffled"].mean()) / right}
