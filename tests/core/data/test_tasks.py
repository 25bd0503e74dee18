"""Answers about clips of the embedded world, against drawn cases and the simulation."""

import numpy as np
import pytest

from core.data.bodies import tasks
from core.data.bodies.stacked import stack_clips
from core.data.bodies.world import World


def test_bodies_land_where_a_longer_clip_shows_them():
    world = World(5, level="plain", size=16, future=8)
    longer = World(5, level="plain", size=16, frames=16)
    clips, whole = (stack_clips(w, range(20)) for w in (world, longer))
    x, landed = tasks.landing(clips), 0
    for i in range(20):
        for k in range(3):
            floor = whole["contact"][i, :, k, 3 + tasks.FLOOR]
            later = np.flatnonzero(floor[8:])
            if floor[7] or not len(later):
                assert np.isnan(x[i, k])
            else:
                assert x[i, k] == whole["position"][i, 8 + later[0], k, 0]
                landed += 1
    assert landed > 15
    answers = tasks.motion_answers(clips)
    np.testing.assert_array_equal(
        answers.true["velocity"], clips["velocity"][:, 7].reshape(20, 6)
    )
    np.testing.assert_array_equal(
        answers.copied["position"], clips["position"][:, 5].reshape(20, 6)
    )
    touch = clips["contact"][:, 6:, :, :3].any((1, 2, 3))
    assert 0 < touch.sum() < 20
    np.testing.assert_array_equal(answers.true["contact"][:, 0], touch)


def test_only_a_body_that_alone_went_into_hiding_is_asked_for():
    visible = np.ones((5, 4, 3))
    visible[0, 2:, 1] = 0.1  # body 1 hides, last seen in frame 1
    visible[1, 3, :2] = 0.0  # two hide
    visible[2, :, 2] = visible[2, 3, 0] = 0.0  # one was never seen, another hides
    visible[3, 1:3, 0] = 0.0  # one hid, and is back
    visible[4, 3, 2] = 0.3  # one is half hidden
    position = np.random.default_rng(0).random((5, 4, 3, 2))
    true, copied = tasks.hidden_answers({"visible": visible, "position": position})
    assert true["hidden_body"][0].tolist() == [0, 1, 0]
    assert true["hidden_place"][0].tolist() == position[0, 3, 1].tolist()
    assert copied["hidden_place"][0].tolist() == position[0, 1, 1].tolist()
    assert copied["hidden_body"][3].argmax() == 0
    for name in true:
        assert np.isnan(true[name][1:]).all()


def test_a_patch_shows_the_body_that_covers_most_of_it():
    masks = np.zeros((1, 2, 4, 4), np.uint8)
    masks[0, :, :2, 0] = 1  # half of the first patch
    masks[0, 0, 2:, 2:] = 2  # half of the last one, in one frame of two
    masks[0, 1, 2, 2] = 1
    masks[0, 0, 0, 2] = 3  # an eighth of the second one
    found = tasks.patch_classes(masks, (2, 2, 2), bodies=3)
    assert found.tolist() == [[1, 0, 0, 2]]


def test_occluders_make_the_question_common():
    world = World(1, size=16, fps=4.0, level="plain", overrides=tasks.OCCLUDER)
    true, _ = tasks.hidden_answers(stack_clips(world, range(60)))
    asked = np.isfinite(true["hidden_place"][:, 0])
    assert 0.15 < asked.mean() < 0.6
    shares = np.nanmean(true["hidden_body"], 0)
    assert shares == pytest.approx(1 / 3, abs=0.25)
