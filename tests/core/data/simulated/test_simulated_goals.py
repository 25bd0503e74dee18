"""MuJoCo tasks as worlds with goals: states are put back, goals wrap, recordings lead there."""

import sys

import numpy as np
import pytest

from core.data.simulated.episodes import NAME, open_simulated
from core.data.simulated.goals import PLACE, STATE, SimulatedGoals
from core.data.simulated.simulator import GOALS, gap_of, open_simulator
from core.planning import control
from core.planning.problems import recorded_problems, sampled_problems

TASKS = {
    "dmc:point_mass_easy": "dm_control",
    "dmc:reacher_easy": "dm_control",
    "gym:Reacher-v5": "mujoco",
    "gym:gymnasium_robotics:PointMaze_UMaze-v3": "gymnasium_robotics",
}


def installed(package):
    pytest.importorskip(package, reason=f"{package} is optional: requirements-envs.txt")


def test_the_shoulder_wraps_and_the_wrist_does_not():
    gap = gap_of(
        GOALS["dmc:reacher_easy"], np.array([3.1, 3.1]), np.array([-3.1, -3.1])
    )
    np.testing.assert_allclose(gap, [6.2 - 2 * np.pi, 6.2])


def test_numbers_after_the_name_of_a_task():
    parts = [
        NAME.fullmatch(x).groups() for x in ("gym:a:B-v1", "dmc:c:5", "gym:d:5:32")
    ]
    assert parts == [
        ("gym:a:B-v1", None, None),
        ("dmc:c", "5", None),
        ("gym:d", "5", "32"),
    ]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control.suite", None)
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(
        ValueError, match=r"need the package dm_control; run pip install"
    ):
        open_simulated("dmc:reacher_easy:5:24")


def test_a_point_mass_steered_to_its_goal_reaches_it():
    installed("dm_control")
    world = SimulatedGoals("dmc:point_mass_easy", 16)
    problems = sampled_problems(world.sample, world, count=4, seed=0)
    start, goal = problems.starts[STATE], problems.goals[STATE]
    assert (start[:, 2:] == 0).all() and (np.abs(start[:, :2]) < 0.3).all()

    def steer(t, rows):
        gap = goal[rows, :2] - world.state[rows, :2]
        return np.clip(15 * gap - 6 * world.state[rows, 2:], -1, 1)

    done = control.carry_out(world, problems, steer, budget=400)
    assert done.success.all()
    still = control.carry_out(
        world, problems, lambda t, rows: 0 * start[rows, :2], budget=5
    )
    assert not still.success.any()
    np.testing.assert_allclose(world.state, start, atol=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_a_problem_moves_as_it_does_alone(task):
    installed(TASKS[task])
    world, rng = SimulatedGoals(task, 16), np.random.default_rng(0)
    begun = [world.draw(rng) for _ in range(3)]
    states = {name: np.stack([x[name] for x in begun]) for name in (STATE, PLACE)}
    actions = rng.uniform(-1, 1, (5, 3, 2))
    world.reset(states)
    before = world.observe()["image"]
    for action in actions:
        world.step(action)
    together = {STATE: world.state.copy(), PLACE: world.place.copy()}
    assert (world.observe()["image"] != before).any()
    assert (together[STATE] != states[STATE]).any(1).all()
    world.reset({name: x[1:2] for name, x in states.items()})
    for action in actions:
        world.step(action[1:2])
    np.testing.assert_array_equal(world.state, together[STATE][1:2])
    there = {name: x[1:2] for name, x in together.items()}
    assert (world.distance(there) == 0).all() and world.reached(there).all()
    with pytest.raises(ValueError, match="expected"):
        world.reset(states | {STATE: states[STATE][:, :3]})


def targets_of(model):
    """How opaque each part is that shows the task's own goal; there is one at least."""
    shown = [(model.geom(k).name, model.geom_rgba[k, 3]) for k in range(model.ngeom)]
    shown += [(model.site(k).name, model.site_rgba[k, 3]) for k in range(model.nsite)]
    found = [alpha for name, alpha in shown if name.startswith("target")]
    assert found
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_own_goal_of_a_task_is_never_drawn(task):
    installed(TASKS[task])
    open_simulator.cache_clear()  # as in a process that only puts recorded states
    simulator = open_simulator(task, 16)
    assert not any(targets_of(simulator.model))
    simulator.reset(3)
    simulator.act(simulator.high)
    assert not any(targets_of(simulator.model))


@pytest.mark.parametrize("task", TASKS)
def test_recorded_actions_lead_to_recorded_states(task):
    installed(TASKS[task])
    recordings, world = open_simulated(f"{task}:6:16"), SimulatedGoals(task, 16)
    problems = recorded_problems(recordings, world, offset=25, count=3, seed=0)
    done = control.carry_out(
        world, problems, control.replay_policy(world, problems), budget=25
    )
    assert done.success.all()
    steps = recordings.load(2)
    world.reset({name: steps[name][:4] for name in (STATE, PLACE)})
    shown = np.abs(world.observe()["image"].astype(int) - steps["image"][0:4])
    assert shown.max() <= 2  # states of recordings are float32


def test_tasks_without_goals_are_refused():
    installed("dm_control")
    with pytest.raises(ValueError, match="no task of dmc whose goals are known"):
        SimulatedGoals("dmc:reacher", 16)
    with pytest.raises(ValueError, match="no goal that is known; expected the"):
        SimulatedGoals("gym:InvertedPendulum-v5", 16)
    with pytest.raises(ValueError, match="cannot be put into a state"):
        SimulatedGoals("gym:Pendulum-v1", 16)
    installed("gymnasium_robotics")
    with pytest.raises(ValueError, match="rewards distances and does not say"):
        SimulatedGoals("gym:gymnasium_robotics:PointMaze_UMazeDense-v3", 16)
