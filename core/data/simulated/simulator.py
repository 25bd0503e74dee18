"""A MuJoCo task that can be put into any state, and the place that its goals are about."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from core.base.packages import package, unknown
from core.data.simulated.suite import choose_renderer, load_dmc, load_gym

KINDS = ("dmc:", "gym:")  # beginnings of names of tasks
HIDDEN = "target"  # beginning of the names of bodies that show the task's own goal


class Simulator(NamedTuple):
    """A task. Its functions change `data`, the simulator's state.

    Attributes:
      model, data: MuJoCo's.
      reset: seed -> place, at the beginning of an episode. place: what is compared with
        that of a goal, float64 [n], such as the angles of joints.
      act: action [A] -> place, one control step later.
      picture: () -> uint8 [size, size, 3]; the task's own goal is not in it.
      gap: (places [..., n], those of the goal) -> differences.
      reached: (place [n], that of the goal) -> bool.
      low, high: bounds of an action [A]. rate: control steps per second.
    """

    model: Any
    data: Any
    reset: Callable[[int], np.ndarray]
    act: Callable[[np.ndarray], np.ndarray]
    picture: Callable[[], np.ndarray]
    gap: Callable[[np.ndarray, np.ndarray], np.ndarray]
    reached: Callable[[np.ndarray, np.ndarray], bool]
    low: np.ndarray
    high: np.ndarray
    rate: float


class Goal(NamedTuple):
    """A pose of joints. joints: their numbers in qpos. turning: those of `joints`, by
    number, that turn all the way round. reached: norm of the differences below which the
    goal is reached.
    """

    joints: tuple[int, ...]
    turning: tuple[int, ...]
    reached: float


# The target of these tasks is only drawn; goals are poses of the joints.
GOALS = {
    "dmc:reacher_easy": Goal((0, 1), (0,), 0.2),  # radians
    "dmc:point_mass_easy": Goal((0, 1), (), 0.02),  # meters
    "gym:Reacher-v5": Goal((0, 1), (0,), 0.2),  # radians
}


def is_task(name: str) -> bool:
    """Whether a name begins like that of a task."""
    return name.startswith(KINDS)


@functools.lru_cache(maxsize=4)
def open_simulator(task: str, size: int) -> Simulator:
    """The simulator of a task, which all callers in this process share.

    task: in GOALS, or gym:ID or gym:MODULE:ID of an environment with the observation
    "achieved_goal", such as gym:gymnasium_robotics:PointMaze_UMaze-v3. size: of pictures.
    Raises ValueError for another task, and for a missing package.
    """
    kind, _, name = task.partition(":")
    if kind == "dmc":
        if task not in GOALS:
            known = [x for x in GOALS if x.startswith("dmc:")]
            raise unknown("task of dmc whose goals are known", task, known)
        simulator = of_dmc(name, GOALS[task], size)
    else:
        simulator = of_gym(name, GOALS.get(task), size)
    hide_goal(simulator.model)
    return simulator


def of_dmc(name: str, goal: Goal, size: int) -> Simulator:
    """A task of DeepMind Control."""
    environment, picture = load_dmc(name, 0, size)
    physics, spec = environment.physics, environment.action_spec()
    model, data = physics.model.ptr, physics.data.ptr
    parts = round(environment.control_timestep() / physics.timestep())
    measure = of_joints(goal, data)

    def reset(seed):
        environment.task.random.seed(seed)
        return measure.place(environment.reset())

    def act(action):
        environment.task.before_step(action, physics)
        return measure.place(physics.step(parts))

    rate = 1 / environment.control_timestep()
    return Simulator(
        model, data, reset, act, picture, measure.gap, measure.reached,
        spec.minimum, spec.maximum, rate,
    )  # fmt: skip


def of_gym(name: str, goal: Goal | None, size: int) -> Simulator:
    """An environment of gymnasium; without `goal`, one whose observation tells its own.

    Raises ValueError if it is not a MuJoCo environment, or its goals or actions are of
    another kind.
    """
    choose_renderer()
    words = {"render_mode": "rgb_array", "width": size, "height": size}
    try:
        environment = load_gym(name, **words).unwrapped
    except ValueError as error:
        if "keyword argument 'width'" in str(error):
            raise no_simulator(name) from error
        raise
    seen, _ = environment.reset(seed=0)
    # Mazes of gymnasium_robotics hold another environment, which has the simulator.
    parts = (environment, *vars(environment).values())
    inner = [x for x in parts if hasattr(x, "model") and hasattr(x, "data")]
    if not inner or not hasattr(environment.action_space, "low"):
        raise no_simulator(name)
    model, data = inner[0].model, inner[0].data
    measure = of_joints(goal, data) if goal else of_achieved(name, environment, seen)

    def reset(seed):
        return measure.place(environment.reset(seed=seed)[0])

    def act(action):
        return measure.place(environment.step(action)[0])

    space, rate = environment.action_space, float(environment.metadata["render_fps"])
    return Simulator(
        model, data, reset, act, environment.render, measure.gap, measure.reached,
        space.low, space.high, rate,
    )  # fmt: skip


class Measure(NamedTuple):
    """place: what a reset or step returned -> place; gap and reached as in Simulator."""

    place: Callable[[Any], np.ndarray]
    gap: Callable[[np.ndarray, np.ndarray], np.ndarray]
    reached: Callable[[np.ndarray, np.ndarray], bool]


def of_joints(goal: Goal, data) -> Measure:
    """Places are positions of joints in MuJoCo's `data`."""
    return Measure(
        lambda _: data.qpos[list(goal.joints)],
        functools.partial(gap_of, goal),
        functools.partial(near, goal),
    )


def of_achieved(name: str, environment, seen) -> Measure:
    """Places are the observation "achieved_goal", reached where the environment rewards it.

    seen: an observation. Raises ValueError if it has none, or if every step is rewarded by
    the distance, which does not say what is reached.
    """
    if not isinstance(seen, dict) or "achieved_goal" not in seen:
        raise ValueError(
            f"gym:{name} has no goal that is known; expected the observation "
            f"'achieved_goal', or one of {', '.join(GOALS)}"
        )
    if getattr(environment, "reward_type", "sparse") != "sparse":
        raise ValueError(
            f"gym:{name} rewards distances and does not say what is reached; expected the "
            "environment with sparse rewards"
        )

    def reached(now, wanted):
        reward = environment.compute_reward
        return bool(reward(now, wanted, {}) == reward(wanted, wanted, {}))

    return Measure(
        lambda found: np.array(found["achieved_goal"], np.float64), np.subtract, reached
    )


def no_simulator(name: str) -> ValueError:
    """The error for an environment of gymnasium of another kind."""
    return ValueError(
        f"gym:{name} cannot be put into a state; expected a MuJoCo environment with real "
        "actions"
    )


def gap_of(goal: Goal, now: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Differences of the joints; of those that turn round, the shorter way."""
    gap = np.subtract(now, wanted)
    for k in goal.turning:
        gap[..., k] = (gap[..., k] + np.pi) % (2 * np.pi) - np.pi
    return gap


def near(goal: Goal, now: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether a pose is that of the goal."""
    return bool(np.linalg.norm(gap_of(goal, now, wanted)) < goal.reached)


def hide_goal(model) -> None:
    """Make what shows the task's own goal transparent: goals are states here."""
    for count, part, color in (
        (model.ngeom, model.geom, model.geom_rgba),
        (model.nsite, model.site, model.site_rgba),
    ):
        for k in range(count):
            if part(k).name.startswith(HIDDEN):
                color[k, 3] = 0


def state_kinds(mujoco):
    """Which of MuJoCo's numbers are a state: positions, velocities, activations of actuators,
    and bodies that are moved from outside; not the time.
    """
    kind = mujoco.mjtState
    return (
        kind.mjSTATE_QPOS | kind.mjSTATE_QVEL | kind.mjSTATE_ACT
        | kind.mjSTATE_MOCAP_POS | kind.mjSTATE_MOCAP_QUAT
    )  # fmt: skip


def read_state(simulator: Simulator) -> np.ndarray:
    """The state, float64 [numbers], of `state_kinds`."""
    mujoco = package("mujoco", suite="MuJoCo")
    kinds = state_kinds(mujoco)
    state = np.zeros(mujoco.mj_stateSize(simulator.model, kinds))
    mujoco.mj_getState(simulator.model, simulator.data, state, kinds)
    return state


def put_state(simulator: Simulator, state: np.ndarray) -> None:
    """Put the simulator into a state. What happens then depends on the state alone.

    Raises ValueError for a state of another length.
    """
    mujoco = package("mujoco", suite="MuJoCo")
    kinds = state_kinds(mujoco)
    count = mujoco.mj_stateSize(simulator.model, kinds)
    if np.shape(state) != (count,):
        raise ValueError(f"a state has {np.shape(state)} numbers; expected {count}")
    mujoco.mj_resetData(simulator.model, simulator.data)
    mujoco.mj_setState(
        simulator.model, simulator.data, np.asarray(state, np.float64), kinds
    )
    mujoco.mj_forward(simulator.model, simulator.data)
