"""Worlds with goals of DeepMind Control: states are put back, goals wrap, actions move."""

import numpy as np
import pytest

from core.agents.envs.dmc_goals import STATE, DmcGoals, angles
from core.planning import control
from core.planning.problems import sampled_problems


def test_the_shoulder_wraps_and_the_wrist_does_not():
    gap = angles(np.array([3.1, 3.1]), np.array([-3.1, -3.1]))
    np.testing.assert_allclose(gap, [6.2 - 2 * np.pi, 6.2])


def test_a_point_mass_steered_to_its_goal_reaches_it():
    pytest.importorskip("dm_control", reason="dm_control is in requirements-envs.txt")
    world = DmcGoals("point_mass", 16)
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


def test_a_problem_moves_as_it_does_alone():
    pytest.importorskip("dm_control", reason="dm_control is in requirements-envs.txt")
    world, rng = DmcGoals("reacher", 16), np.random.default_rng(0)
    states = np.stack([world.draw(rng) for _ in range(3)])
    actions = rng.uniform(-1, 1, (5, 3, 2))
    world.reset({STATE: states})
    for action in actions:
        world.step(action)
    together = world.state.copy()
    world.reset({STATE: states[1:2]})
    for action in actions:
        world.step(action[1:2])
    np.testing.assert_array_equal(world.state, together[1:2])
    assert (world.distance({STATE: together[1:2]}) == 0).all()
    with pytest.raises(ValueError, match=r"expected \[problems, 4\]"):
        world.reset({STATE: states[:, :3]})


def test_an_unknown_world():
    pytest.importorskip("dm_control", reason="dm_control is in requirements-envs.txt")
    with pytest.raises(ValueError, match="no world with goals of dmc 'reach'"):
        DmcGoals("reach", 16)
