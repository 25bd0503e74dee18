"""The pushing task: contacts in closed form, recordings that the world repeats, pictures."""

import numpy as np
import pytest

from core.data import source_names
from core.data.episodes import scripted
from core.data.pushing import episodes, physics
from core.data.pushing.draw import draw
from core.data.pushing.goals import Pushing
from core.planning import control
from core.planning.problems import recorded_problems


def test_a_straight_push_moves_the_puck_by_what_is_left_after_contact():
    disc, puck = np.array([[0.3, 0.5]]), np.array([[0.5, 0.5]])
    gap = 0.2 - physics.TOUCH
    moved = physics.move(disc, puck, [[gap + 0.02, 0.0]])
    np.testing.assert_allclose(moved[0], [[0.3 + gap + 0.02, 0.5]], atol=1e-9)
    np.testing.assert_allclose(moved[1], [[0.52, 0.5]], atol=1e-9)
    away = physics.move(disc, puck, [[-0.02, 0.0]])
    np.testing.assert_array_equal(away[1], puck)


def test_a_puck_at_the_wall_stops_the_disc():
    low = physics.BORDER + physics.PUCK
    disc, puck = np.array([[low + physics.TOUCH, 0.5]]), np.array([[low, 0.5]])
    for _ in range(5):
        disc, puck = physics.move(disc, puck, [[-physics.STEP, 0.0]])
    np.testing.assert_allclose(disc, [[low + physics.TOUCH, 0.5]], atol=1e-9)
    np.testing.assert_allclose(puck, [[low, 0.5]], atol=1e-9)


def test_bodies_never_overlap_nor_jump_over_each_other():
    rng = np.random.default_rng(0)
    disc, puck = physics.random_places(rng, 500)
    for _ in range(60):
        before = disc - puck
        way = rng.uniform(-1, 1, (500, 2)) - 0.8 * np.sign(before) * (
            rng.random() < 0.8
        )
        disc, puck = physics.move(disc, puck, physics.STEP * np.clip(way, -1, 1))
        after = disc - puck
        assert (np.linalg.norm(after, axis=1) > physics.TOUCH - 0.012).all()
        assert ((before * after).sum(1) > 0).all()  # on the same side still
        for place, radius in ((disc, physics.DISC), (puck, physics.PUCK)):
            low = physics.BORDER + radius - 1e-9
            assert (place >= low).all() and (place <= 1 - low).all()


def test_the_world_repeats_recordings_and_reaches_their_goals():
    recordings, world = (
        scripted.open_task(episodes.PUSHING, "pushing:40:32"),
        Pushing(32),
    )
    steps = recordings.load(3)
    world.reset({scripted.POSITION: steps[scripted.POSITION][:1]})
    for t in range(60):
        np.testing.assert_allclose(
            world.observe()[scripted.POSITION][0],
            steps[scripted.POSITION][t],
            atol=1e-4,
        )
        world.step(steps["action"][t : t + 1])
    problems = recorded_problems(recordings, world, offset=25, count=40, seed=0)
    done = {
        "replay": control.replay_policy(world, problems),
        "random": control.random_policy(world, problems, budget=50),
    }
    done = {
        k: control.carry_out(world, problems, p, budget=50) for k, p in done.items()
    }
    assert done["replay"].success.all()
    assert done["random"].success.mean() < 0.4


def test_the_script_pushes_the_puck_far_and_leaves_it_at_times():
    place, action = episodes.push_block(0, 0)
    moved = np.linalg.norm(place[:, 50:, 1] - place[:, :-50, 1], axis=-1)
    assert np.median(moved) > 0.1
    # A linear map from the disc's place does not tell the puck's.
    disc, puck = place[:, 20:].reshape(-1, 2, 2).swapaxes(0, 1)
    given = np.concatenate([disc, np.ones((len(disc), 1))], 1)
    error = puck - given @ np.linalg.lstsq(given, puck, rcond=None)[0]
    assert 1 - error.var() / puck.var() < 0.4
    assert action.dtype == np.float32 and np.abs(action).max() <= 1


def test_pictures_have_disc_and_puck_where_they_are():
    picture = draw(np.array([[0.25, 0.75]]), np.array([[0.6, 0.3]]), 64)[0]
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert picture[48, 16].tolist() == [222, 62, 48]
    assert picture[19, 38].tolist() == [48, 98, 190]
    assert picture[32, 32].tolist() == [236, 232, 222]
    assert picture[0, 32].tolist() == [70, 74, 84]
    red = (picture.astype(int) @ [1, -1, 0] > 80).sum() / 64**2
    assert red == pytest.approx(np.pi * physics.DISC**2, rel=0.1)


def test_the_name_is_a_source_of_trajectories():
    assert source_names.is_trajectories("pushing")
    whole = source_names.recordings("pushing:20:16")
    assert len(whole) == 20
    image = whole.load(2)["image"]
    assert image[5:7].shape == (2, 16, 16, 3)
    assert len(source_names.recordings("pushing:20:16", "validation")) == 1
    with pytest.raises(ValueError, match="pushing:x is not pushing:EPISODES:SIZE"):
        source_names.recordings("pushing:x")
    with pytest.raises(ValueError, match="pictures of 8 pixels; expected 16 to 512"):
        source_names.recordings("pushing:9:8")
