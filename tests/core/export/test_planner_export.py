"""The exported planner: the same actions as the live one; the page's client drives by it."""

import json
import re
import time

import jax
import numpy as np
import pytest
from small import ROOT

from core.export import artifacts, planner
from core.planning.controller import make_controller
from core.planning.goals import GoalModel
from core.planning.objective import over_horizon
from core.planning.planners import make_planner
from core.planning.plans import make_space

MEAN, STD = np.array([0.1, 0.0], np.float32), np.array([0.5, 1.0], np.float32)
ORIGIN = {"parent": "run", "revision": "1", "devices": "cpu", "packages": {}}


class Walk:
    """Squared distance of the last place to the goal; the place moves by the actions."""

    def encode(self, params, context):
        return context

    def cost(self, params, start, plans, key):
        moves = plans.reshape(*plans.shape[:3], 2, 2) * STD + params["drift"]["mean"]
        place = start["place"][:, None] + moves.sum((2, 3))
        gap = ((place - start["goal"][:, None]) ** 2).sum(-1, keepdims=True)
        return over_horizon(gap, last=1)


def context(observed, blocks, goal):
    return {"place": observed["place"][:, -1], "goal": goal["place"]}


MODEL = GoalModel(Walk(), context, lambda *x: x, lambda *x: x, MEAN, STD, skip=2)


def controller(name="icem", model=MODEL, execute=2):
    high = np.tile((1 - MEAN) / STD, 2)
    space = make_space(np.tile((-1 - MEAN) / STD, 2), high, mean=0, std=1)
    search = {"candidates": 64, "best": 8, "rounds": 5}
    return make_controller(
        model,
        make_planner(name, model.objective, space, horizon=2, **search),
        space,
        execute=execute,
        low=-np.ones(2, np.float32),
        high=np.ones(2, np.float32),
        views={"place": ((2,), "float32")},
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, params) of an export."""
    folder = tmp_path_factory.mktemp("planner")
    params = {"drift": {"mean": MEAN}, "unused": (np.ones(3, np.float32),)}
    words = {"config": {}, "title": "A planner", "names": ("x", "y"), "units": ("m",)}
    gap = planner.export_planner(
        controller(), params, folder, ORIGIN, **words, rate=10.0
    )
    assert gap < 1e-5
    return folder, params


def inputs_of(place, goal, state):
    views = {"place": place, "goal/place": goal}
    return {k: np.float32([x]) for k, x in views.items()} | state


def test_the_program_plans_as_the_live_controller(exported):
    """Two calls, the second of which goes on from the state of the first."""
    folder, params = exported
    live, program = controller(), artifacts.load(folder, "planner")
    specs = live.specs()
    state = {k: np.zeros(s.shape, s.dtype) for k, s in specs.items() if "state/" in k}
    assert state.keys() == {"state/plan", "state/turn", "state/kept"}
    for turn in range(2):
        inputs = inputs_of([0, 0], [1.0, -2.0], state)
        found = program(inputs)
        expected = jax.jit(live.act)(params, inputs)
        for name, x in expected.items():
            np.testing.assert_allclose(found[name], x, atol=1e-5, err_msg=name)
        state = {k: np.asarray(found[k]) for k in state}
        assert state["state/turn"].tolist() == [turn + 1]
        actions = found["action"][0]
        assert actions.shape == (4, 2) and (np.abs(actions) <= 1).all()
        np.testing.assert_allclose(actions.sum(0), [1, -2], atol=0.3)


def test_what_the_export_says_of_actions(exported):
    folder, _ = exported
    about = json.loads((folder / "planner.json").read_text())
    assert about["steps"] == 4 and about["rate"] == 10
    assert about["action"][0] == {"name": "x", "unit": "m", "low": -1.0, "high": 1.0}
    assert about["inputs"]["goal/place"] == {"shape": [1, 2], "dtype": "float32"}
    card = (folder / "README.md").read_text()
    assert "| 1 y | unknown | -1 | 1 |" in card and "next 4 actions" in card
    assert "planner.json" in artifacts.recorded_files(folder)


class Robot:
    """Moves by its actions; a slow one takes long to look."""

    def __init__(self, slow=0.0):
        self.place, self.slow, self.done = np.zeros(2, np.float32), slow, []

    def observe(self):
        return {"place": self.place}

    def act(self, action):
        self.done.append(np.asarray(action))
        self.place = (self.place + action).astype(np.float32)


def page_client():
    """`drive` as the page has it."""
    text = (ROOT / "docs" / "planning_and_agents.md").read_text()
    code = re.search(r"test_planner_export.py -->\n```python\n(.*?)```", text, re.S)
    names = {}
    exec(code[1], names)
    return names


def test_the_client_of_the_page_reaches_the_goal(exported):
    robot, goal = Robot(), {"place": np.float32([2.0, -3.0])}
    still = np.zeros(2, np.float32)
    page_client()["drive"](exported[0], robot, goal, rate=50, safe=still, steps=40)
    assert len(robot.done) == 40
    np.testing.assert_allclose(robot.place, goal["place"], atol=0.5)


def test_the_client_of_the_page_is_safe_while_a_plan_is_late(exported, monkeypatch):
    names, safe, calls = page_client(), np.float32([0.25, 0.25]), []
    program = artifacts.load(exported[0], "planner")

    def slow(inputs):
        calls.append(time.monotonic())
        time.sleep(0.2 * (len(calls) > 1))
        return program(inputs)

    names["load"] = lambda folder, name: slow
    robot, begin = Robot(), time.monotonic()
    late = names["drive"](
        exported[0], robot, {"place": np.float32([2, 2])}, rate=50, safe=safe, steps=15
    )
    assert 5 <= late < 15
    assert all((x == safe).all() for x in robot.done[:5])
    assert any((x != safe).any() for x in robot.done)
    assert time.monotonic() - begin < 5


def test_a_controller_sees_one_frame():
    with pytest.raises(ValueError, match="plans from 3 frames; a controller sees one"):
        controller(model=MODEL._replace(history=3))
    with pytest.raises(ValueError, match="execute is 3 blocks; use 1 to 2"):
        controller(execute=3)
