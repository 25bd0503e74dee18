"""The arm: kinematics in complex numbers, recordings that the world repeats, pictures."""

import numpy as np

from core.data.arm import draw, episodes, physics
from core.data.arm.goals import Arm
from core.data.episodes import scripted
from core.planning import control
from core.planning.problems import recorded_problems


def test_elbow_and_tip_are_those_of_the_angles():
    joints = physics.random_joints(np.random.default_rng(0), 200)
    up = -1j * np.exp(1j * joints[:, 0])  # y down, so that angles grow clockwise
    elbow = physics.BASE[0] + 1j * physics.BASE[1] + physics.UPPER * up
    tip = elbow + physics.FORE * up * np.exp(1j * joints[:, 1])
    places = physics.points(joints)
    for found, wanted in ((places[:, 0], elbow), (places[:, 1], tip)):
        np.testing.assert_allclose(found[:, 0] + 1j * found[:, 1], wanted, atol=1e-12)
    np.testing.assert_allclose(physics.joints_of(places), joints, atol=1e-9)
    assert ((places > 0) & (places < 1)).all()  # within the picture


def test_the_gripper_is_seen_where_the_tip_is():
    joints = physics.random_joints(np.random.default_rng(1), 30)
    places = physics.points(joints)
    pictures = draw.draw(places, 64).astype(int)
    red = (np.abs(pictures - draw.TIP_COLOR) < 4).all(-1)
    for seen, (_, tip) in zip(red, places, strict=True):
        y, x = np.nonzero(seen)
        assert abs((x.mean() + 0.5) / 64 - tip[0]) < 0.01
        assert abs((y.mean() + 0.5) / 64 - tip[1]) < 0.01
    alone = draw.draw(places[7:8], 64)
    np.testing.assert_array_equal(alone[0], pictures[7])  # whatever is drawn beside it


def test_the_world_repeats_recordings_and_stops_at_limits():
    recordings, world = scripted.open_task(episodes.ARM, "arm:40:16"), Arm(16)
    steps = recordings.load(3)
    place = steps[scripted.POSITION]
    world.reset({scripted.POSITION: place[:1]})
    for t in range(60):
        found = world.observe()[scripted.POSITION][0]
        np.testing.assert_allclose(found, place[t], atol=1e-5)
        world.step(steps["action"][t : t + 1])
    for _ in range(60):
        world.step(np.array([[9.0, -9.0]]))  # clipped to 1
    np.testing.assert_allclose(world.joints, [physics.LIMITS * [1, -1]])
    problems = recorded_problems(recordings, world, offset=25, count=40, seed=0)
    replay = control.replay_policy(world, problems)
    assert control.carry_out(world, problems, replay, budget=25).success.all()
    chance = control.random_policy(world, problems, budget=50)
    assert control.carry_out(world, problems, chance, budget=50).success.mean() < 0.3
