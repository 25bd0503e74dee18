"""Tasks of the section `plan`: goals behind a wall, goals in a clear way, goals far away."""

import functools

import numpy as np
import pytest

from core.data.episodes.scripted import POSITION
from core.planning.evaluate import Setting, draw
from core.planning.judging import Judging
from core.section import Section
from jepa.worlds.planning import WORLDS, Acting, make_task, picture_views, setting_of
from jepa.worlds.stored_features import with_pictures


@pytest.mark.parametrize("way, apart", [("clear", 0.2), ("blocked", 0.0)])
def test_problems_are_those_of_the_task(way, apart):
    task = make_task("two_rooms", section(way=way, apart=apart))
    recordings = with_pictures("two_rooms:20:16", "validation")
    setting = Setting(functools.partial(WORLDS["two_rooms"][0], 16), lambda: recordings)
    how = Judging({"a": task}, {}, problems=20)
    found = draw(task, setting, setting.world(), recordings, how, seed=0)
    start, goal = found.starts[POSITION][:, 0], found.goals[POSITION][:, 0]
    assert (np.linalg.norm(goal - start, axis=1) >= apart).all()
    assert (((start[:, 0] < 0.5) != (goal[:, 0] < 0.5)) == (way == "blocked")).all()


def test_goals_of_simulated_tasks_are_sampled_or_recorded():
    pytest.importorskip("dm_control", reason="dm_control is in requirements-envs.txt")
    task = "dmc:reacher_easy"
    acting = Acting(
        "a model", goal_model=int, params_of=int, source=f"{task}:20:16",
        views=picture_views(["image"], 16), size=16, width=2,
    )  # fmt: skip
    setting = setting_of(task, acting)
    world, recordings = setting.world(), setting.recordings()
    how = Judging({}, {}, problems=3)
    for offset in (0, 25):
        goals = make_task(task, section(offset=offset))
        found = draw(goals, setting, world, recordings, how, seed=0)
        assert (found.actions is None) == (offset == 0)
        world.reset(found.starts)
        assert not world.reached(found.goals).any()


@pytest.mark.parametrize(
    "world, fields, message",
    [
        (
            "two_rooms",
            {"way": "open"},
            "plan.tasks.a.way is 'open'; use one of any, cl",
        ),
        (
            "pushing",
            {"way": "clear"},
            "a.way is 'clear', but no way is blocked in push",
        ),
        (
            "dmc:reacher_easy",
            {"way": "blocked"},
            "no way is blocked in dmc:reacher_easy",
        ),
        ("two_rooms", {"away": 1}, "unknown field plan.tasks.a.away"),
    ],
)
def test_tasks_that_cannot_be(world, fields, message):
    with pytest.raises(ValueError, match=message):
        make_task(world, section(**fields))


def section(**fields):
    return Section({"offset": 25, "budget": 50} | fields, "plan.tasks.a")
