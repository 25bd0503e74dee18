"""Carries plans out: a policy acts in a world of problems; planners replan as they go."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.base.processes import usable_cpus
from core.base.waiting import Stopped
from core.method import UNWATCHED, Watch
from core.planning.goals import GoalModel, GoalWorld, check_views, to_actions, to_blocks
from core.planning.plans import Guess, Plan, Planner, PlanSpace, shift
from core.planning.problems import Problems, pick

# (environment step, rows that are not solved yet) -> actions of these rows [n, A].
Policy = Callable[[int, np.ndarray], np.ndarray]


class Outcome(NamedTuple):
    """What became of P problems. success: bool [P]. steps: environment steps until then,
    the budget if it never was. distance: to the goal at the end, or at success, [P]. film:
    the images of each step, uint8 [P, T + 1, h, w, 3], where asked for.
    """

    success: np.ndarray
    steps: np.ndarray
    distance: np.ndarray
    film: np.ndarray | None


def carry_out(
    world: GoalWorld,
    problems: Problems,
    policy: Policy,
    *,
    budget: int,
    film: bool = False,
    watch: Watch = UNWATCHED,
) -> Outcome:
    """Act for `budget` environment steps. A problem is solved once its goal is reached.

    Solved problems hold still. film: whether to keep `observe()["image"]` of every step.
    Raises core.base.waiting.Stopped if `watch.stopping()`.
    """
    P, still = len(problems), np.clip(np.zeros_like(world.low), world.low, world.high)
    world.reset(problems.starts)
    steps = np.where(world.reached(problems.goals), 0, budget)
    success, distance = steps == 0, np.array(world.distance(problems.goals), float)
    frames = [world.observe()["image"]] if film else []
    for t in range(budget):
        if watch.stopping():
            raise Stopped
        rows = np.flatnonzero(~success)
        if not len(rows):
            break
        actions = np.tile(still, (P, 1)).astype(np.float32)
        actions[rows] = policy(t, rows)
        world.step(np.clip(actions, world.low, world.high))
        now = ~success & np.asarray(world.reached(problems.goals), bool)
        distance = np.where(success, distance, world.distance(problems.goals))
        steps, success = np.where(now, t + 1, steps), success | now
        frames += [world.observe()["image"]] if film else []
    shown = np.stack(frames, 1) if film else None
    return Outcome(success, steps, distance, shown)


def random_policy(world: GoalWorld, problems: Problems, *, budget: int) -> Policy:
    """Uniform actions within the bounds; those of a problem do not depend on the others."""
    size = budget, len(world.low)
    drawn = np.stack(
        [
            np.random.default_rng((int(i), 0)).uniform(world.low, world.high, size)
            for i in problems.ids
        ]
    )
    return lambda t, rows: drawn[rows, t]


def replay_policy(world: GoalWorld, problems: Problems) -> Policy:
    """The recorded actions, then none: what a perfect plan would do."""
    assert problems.actions is not None
    actions, still = problems.actions, np.zeros(len(world.low), np.float32)
    n = actions.shape[1]
    return lambda t, rows: actions[rows, t] if t < n else still


class Solver:
    """A planner that solves any number of problems, always `at_once` in a program.

    So that a plan does not depend on how many problems there are: the compiled program is
    the same. The last part is filled up with copies of its first problem.

    Where the only device is a CPU a program solves one problem, and each core runs a program of
    its own: their matrix products are too small to be split over cores.
    """

    def __init__(self, planner: Planner, params: Any, *, at_once: int):
        self.planner, self.params = planner, params
        alone = jax.default_backend() == "cpu" and jax.device_count() == 1
        self.at_once, self.threads = (1, usable_cpus()) if alone else (at_once, 1)

        def solve(params, context, keys, guess):
            return planner.plan(params, context, jax.random.wrap_key_data(keys), guess)

        self.solve_part = jax.jit(solve)

    def __call__(self, context: Any, keys: np.ndarray, guess: Guess) -> Plan:
        """The Plan of P problems, in numpy. keys: data of one key each, uint32 [P, ...]."""
        P = len(keys)

        def solve(first: int) -> Plan:
            rows = np.arange(first, first + self.at_once)
            rows = np.where(rows < P, rows, first)
            given = jax.tree.map(lambda x: x[rows], (context, keys, guess))
            return jax.tree.map(np.asarray, self.solve_part(self.params, *given))

        firsts = range(0, P, self.at_once)
        if self.threads == 1:
            parts = [solve(first) for first in firsts]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                parts = list(pool.map(solve, firsts))
        return jax.tree.map(lambda *x: np.concatenate(x)[:P], *parts)


def time_plans(solver: Solver, *given, repeats: int) -> list[float]:
    """Seconds of a call of the solver that compiles, then of `repeats` more."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        solver(*given)
        times.append(time.perf_counter() - begin)
    return times


class PlanningPolicy:
    """Plans H blocks, carries out the first ones, and plans again from what it then sees.

    lost: bool [P], the problems for which some plan had no finite cost.
    """

    def __init__(
        self,
        world: GoalWorld,
        problems: Problems,
        model: GoalModel,
        space: PlanSpace,
        solver: Solver,
        *,
        execute: int,
        seed: int,
    ):
        """execute: blocks that are carried out before the next plan."""
        self.world, self.model, self.space, self.solver = world, model, space, solver
        self.execute, self.goal = execute, goal_views(world, problems)
        self.keys = problem_keys(problems, seed)
        self.seen: list[dict[str, np.ndarray]] = []
        self.blocks: list[np.ndarray] = []
        P = len(problems)
        self.guess = to_numpy(solver.planner.begin(P))
        H, width = self.guess.actions.shape[1:]
        self.plan = Plan(
            self.guess.actions.copy(),
            np.zeros(P, np.float32),
            np.ones(P, bool),
            self.guess.kept.copy(),
        )
        self.lost = np.zeros(P, bool)
        self.ahead = np.zeros((P, execute * model.skip, len(model.mean)), np.float32)

    def __call__(self, t: int, rows: np.ndarray) -> np.ndarray:
        skip, history = self.model.skip, self.model.history
        block, within = divmod(t, skip)
        turn, part = divmod(block, self.execute)
        if not within and (not part or history > 1):
            self.seen = [*self.seen, self.world.observe()][-history:]
        if not within and not part:
            self.solve(rows, turn)
        at = part * skip
        if not within:
            done = to_blocks(self.model, self.ahead[:, at : at + skip])[:, 0]
            self.blocks = [*self.blocks, done][-history:]
        return self.ahead[rows, at + within]

    def solve(self, rows: np.ndarray, turn: int) -> None:
        """Plan for the problems `rows`; the others keep their plan."""
        n, width = len(self.seen), self.plan.actions.shape[-1]
        names = self.seen[0]
        observed = {k: np.stack([x[k][rows] for x in self.seen], 1) for k in names}
        past = [x[rows] for x in self.blocks[len(self.blocks) - n + 1 :]]
        empty = np.zeros((len(rows), 0, width), np.float32)
        blocks = np.stack(past, 1) if past else empty
        goal = pick(self.goal, rows)
        check_views(observed, goal)
        context = self.model.context(observed, blocks, goal)
        if turn:
            self.guess = to_numpy(shift(self.plan, self.execute, self.space))
        keys = np.asarray(fold_all(self.keys, np.uint32(turn)))[rows]
        found = self.solver(context, keys, jax.tree.map(lambda x: x[rows], self.guess))
        for whole, new in zip(self.plan, found, strict=True):
            whole[rows] = new
        self.lost[rows] |= ~found.found
        actions = to_actions(self.model, self.plan.actions[:, : self.execute])
        self.ahead = np.clip(actions, self.world.low, self.world.high)


def to_numpy(tree):
    """The same arrays in numpy, writable."""
    return jax.tree.map(np.array, tree)


def problem_keys(problems: Problems, seed: int) -> np.ndarray:
    """Data of a key for each problem, by its id: uint32 [P, ...]."""
    keys = jax.random.key_data(jax.random.key(seed))
    return np.asarray(fold_all(jnp.tile(keys, (len(problems), 1)), problems.ids))


@jax.jit
def fold_all(keys, data):
    """Key data [P, ...] folded with a number, or with one each [P]."""
    data = jnp.broadcast_to(jnp.asarray(data).astype(jnp.uint32), keys.shape[:1])

    def one(key, i):
        return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), i))

    return jax.vmap(one)(keys, data)


def goal_views(world: GoalWorld, problems: Problems) -> dict[str, np.ndarray]:
    """Observations of the goal states [P, ...]; leaves the world in the start states."""
    world.reset(problems.goals)
    seen = {name: np.array(x) for name, x in world.observe().items()}
    world.reset(problems.starts)
    return seen
