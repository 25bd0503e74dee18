"""Environments: contents of a step, physics of the embedded task, errors."""

import math
import sys

import numpy as np
import pytest
from numbered import assert_same

from core.agents.envs import world
from core.agents.envs.checks import check
from core.agents.envs.env import Env, finite_bounds, to_bounds
from core.agents.envs.make import make
from core.agents.spaces import Space

NONE = {"action": np.zeros(2, np.float32), "reset": False}


def push(x, y):
    return {"action": np.array([x, y], np.float32), "reset": False}


def episode(env, policy):
    """The steps of one episode."""
    steps = [check(env.step(NONE | {"reset": True}), env)]
    while not steps[-1]["is_last"]:
        steps.append(check(env.step(push(*policy(steps[-1]))), env))
    return steps


def at_random(seed):
    rng = np.random.default_rng(seed)
    return lambda step: rng.uniform(-1, 1, 2)


def test_a_pushed_disc_glides_as_the_closed_form_says():
    env, fps, steps = make("world:reach", seed=3), world.FPS, 20
    start = env.step(NONE)["bodies"][:2]
    away = np.sign(start - 0.5) * 0.3  # into the corner, where the other disc is not
    found = [env.step(push(*away))] + [env.step(NONE) for _ in range(2)]
    speed, c, dt = away * world.PUSH, -math.log(world.KEPT), 1 / (fps * steps)
    for n, step in enumerate(found, 1):
        t = n / fps
        np.testing.assert_allclose(
            step["bodies"][2:4], speed * math.exp(-c * t), rtol=1e-5
        )
        # Steps of dt with the velocity before each: a geometric series.
        way = speed * dt * (1 - math.exp(-c * t)) / (1 - math.exp(-c * dt))
        np.testing.assert_allclose(step["bodies"][:2] - start, way, rtol=1e-4)
        smooth = speed * (1 - math.exp(-c * t)) / c
        np.testing.assert_allclose(step["bodies"][:2] - start, smooth, rtol=0.011)


def test_an_episode_of_the_task_ends_by_time_only():
    steps = episode(make("world:reach", seed=0), at_random(0))
    assert len(steps) == 1 + 64
    assert [s["is_first"] for s in steps] == [True] + [False] * 64
    assert [s["is_last"] for s in steps] == [False] * 64 + [True]
    assert not any(s["is_terminal"] for s in steps)
    assert steps[0]["reward"] == 0
    for step in steps:
        offset = step["target"] - step["bodies"][:2]
        np.testing.assert_allclose(step["offset"], offset, atol=1e-6)
    near = [np.linalg.norm(s["offset"]) for s in steps[1:]]
    reward = [s["reward"] for s in steps[1:]]
    assert all(0 < r <= 1 for r in reward)
    assert np.array_equal(np.argsort(near), np.argsort(reward)[::-1])
    places = np.array([s["bodies"].reshape(2, 4)[:, :2] for s in steps])
    assert places.min() > 0 and places.max() < 1


def expert(step):
    """A good action [2]: a spring to the target and a damper; it pushes the other disc."""
    return np.clip(20 * step["offset"] - 4 * step["bodies"][2:4], -1, 1)


def test_an_expert_scores_far_above_chance():
    env = make("world:reach", seed=1)

    def score(policy):
        return [sum(s["reward"] for s in episode(env, policy)) for _ in range(12)]

    good, chance = score(expert), score(at_random(0))
    assert np.mean(good) > 48
    assert np.mean(chance) < 0.2 * np.mean(good)


def test_pictures_show_discs_and_target_where_they_are():
    env = make("world:reach", seed=3, size=128)
    step = env.step(NONE | {"reset": True})
    picture = env.picture()
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
    for place in (step["bodies"][:2], step["bodies"][4:6]):
        x, y = np.round(place * 128).astype(int)
        assert picture[y, x].max() > 100
    x, y = np.round(step["target"] * 128).astype(int)
    ring = picture[y, [x - round(128 * world.NEAR), x + round(128 * world.NEAR)]]
    assert (ring.max(-1) > 100).all() and picture[y, x].max() < 50


def test_an_episode_is_a_function_of_seed_and_number():
    a, b, c = (make("world:reach", seed=s) for s in (5, 5, 6))
    whole = [episode(a, at_random(9)) for _ in range(2)]
    b.step(NONE), b.step(push(1, 1))  # an episode cut short by a reset
    for one, other in zip(whole[1], episode(b, at_random(9)), strict=True):
        assert_same(one, other)
    starts = [tuple(s["bodies"]) for s in (whole[0][0], whole[1][0], c.step(NONE))]
    assert len(set(starts)) == 3


def test_pushes_are_clipped():
    a, b = make("world:reach", seed=2), make("world:reach", seed=2)
    a.step(NONE), b.step(NONE)
    assert_same(a.step(push(7, -3)), b.step(push(1, -1)))


class Ladder:
    """Climbs by its action, up to 7 with a fall at the end or 5 without."""

    def __init__(self, top, terminal):
        self.top, self.terminal = top, terminal
        self.observations = {"height": Space((1,)), "rungs": Space((2,), "int32", 9)}
        self.actions, self.bounds = {"action": Space(())}, {}

    def reset(self, episode):
        self.height = 0.0

    def advance(self, action):
        self.height += float(action["action"])
        last = self.height >= self.top
        return self.height, last, last and self.terminal

    def observe(self):
        return {"height": [self.height], "rungs": [int(self.height), self.top]}

    def close(self):
        pass


@pytest.mark.parametrize("top, terminal", [(7, True), (5, False)])
def test_repeats_add_up_and_stop_at_the_end(top, terminal):
    env = Env(Ladder(top, terminal), repeat=3)
    up = {"action": 1, "reset": False}
    steps = [check(env.step(up), env) for _ in range(6)]
    expected = {7: [0, 6, 15, 7, 0, 6], 5: [0, 6, 9, 0, 6, 9]}[top]
    assert [s["reward"] for s in steps] == expected
    last = {7: [0, 0, 0, 1, 0, 0], 5: [0, 0, 1, 0, 0, 1]}[top]
    first = {7: [1, 0, 0, 0, 1, 0], 5: [1, 0, 0, 1, 0, 0]}[top]
    assert [s["is_last"] for s in steps] == last
    assert [s["is_first"] for s in steps] == first
    assert [s["is_terminal"] for s in steps] == [x and terminal for x in last]
    assert env.step(up | {"reset": True})["is_first"]


def test_actions_reach_their_bounds():
    low, high = np.array([0, -2, 5]), np.array([4, 2, 5])
    found = [to_bounds(np.full(3, x), low, high) for x in (-9, -1, 0, 0.5, 1, 9)]
    expected = [[0, -2, 5], [0, -2, 5], [2, 0, 5], [3, 1, 5], [4, 2, 5], [4, 2, 5]]
    np.testing.assert_array_equal(found, expected)


INF, NAN, F32 = np.inf, np.nan, np.finfo(np.float32).max


@pytest.mark.parametrize(
    "low, high, given, expected",
    [
        ([-2, 0], [2, 1e6], "", ([-2, 0], [2, 1e6])),
        ([-INF, 0], [INF, 4], "-3,3", ([-3, 0], [3, 4])),
        ([-F32], [F32], "-0.5,2", ([-0.5], [2])),
        ([5], [INF], "1,90", ([5], [90])),
        ([-1e300], [1e10], "-1,1", ([-1], [1])),
        ([NAN], [7], "-1,1", ([-1], [7])),
        (
            [-INF],
            [INF],
            "",
            r"'push' has the bounds -inf to inf, .*action_bounds=LOW,HIGH",
        ),
        ([5, 0], [INF, 1], "", r"'push' has the bounds \[5.0, 0.0\] to \[inf, 1.0\]"),
        ([-1e7], [1], "", "'push' has the bounds -1e.07 to 1, and those beyond 1e.06"),
        ([5], [INF], "-1,1", "'push' has the bounds 5 to inf, with nothing between"),
        (
            [-INF],
            [INF],
            "1",
            "env.action_bounds is '1'; expected LOW,HIGH, such as -1,1",
        ),
        ([-INF], [INF], "1,inf", "env.action_bounds is '1,inf'; expected LOW,HIGH"),
        ([-INF], [INF], "2,1", "env.action_bounds is '2,1'; expected LOW,HIGH"),
    ],
)
def test_every_action_has_finite_bounds(low, high, given, expected):
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            finite_bounds(low, high, name="push", given=given)
    else:
        found = finite_bounds(low, high, name="push", given=given)
        np.testing.assert_array_equal(found, expected)


class Named(Ladder):
    """A ladder of other names, which pushes by its own units and hides one observation."""

    def __init__(self, observations, bounds=(0, 4)):
        super().__init__(7, True)
        self.observations, self.bounds = observations, {"action": bounds}

    def observe(self):
        return {name: [self.height] for name in self.observations}


def test_names_that_steps_need_are_given_to_observations_with_a_prefix():
    one = Space((1,))
    names = ("action", "reward", "time", "is_first", "language", "log/x", "x", "hidden")
    simulator = Named(dict.fromkeys(names, one) | {"hidden": "is a song"})
    env = Env(simulator, leave_out="hidden, x")
    expected = {f"observation/{name}" for name in names[:-2]}
    assert set(env.observations) == expected
    steps = [env.step({"action": 0.5, "reset": i == 0}) for i in range(2)]
    found = check(steps[1], env)
    assert all(found[name] == 3 for name in expected)  # 0.5 of -1..1 is 3 of 0..4
    assert found["reward"] == 3 and not found["is_first"]
    with pytest.raises(ValueError, match="'hidden' is a song; .*env.leave_out=hidden"):
        Env(simulator)
    with pytest.raises(ValueError, match="'hiden' is no observation to leave out"):
        Env(simulator, leave_out="hiden")
    with pytest.raises(ValueError, match="would be called 'observation/time'"):
        Env(Named({"time": one, "observation/time": one}))
    with pytest.raises(ValueError, match="has no observations"):
        Env(Named({"x": one}), leave_out="x")
    simulator.actions = {}
    with pytest.raises(ValueError, match="has no actions"):
        Env(simulator, leave_out="hidden")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"height": np.zeros(1)}, r"height is float64 \(1,\); expected float32 \(1,\)"),
        ({"height": np.float32(0)}, r"height is float32 \(\); expected float32 \(1,\)"),
        ({"height": np.array([np.inf], np.float32)}, "height holds inf; .* finite"),
        ({"reward": np.float32("nan")}, "reward holds nan; expected float32"),
        ({"reward": 1.0}, "reward is float64"),
        ({"is_last": 0}, r"is_last is int64 \(\); expected bool \(\)"),
        ({"rungs": np.array([0, 9], np.int32)}, "rungs holds 0 to 9; expected -1 to 8"),
        ({"rungs": None}, "rungs is missing; expected int32"),
    ],
)
def test_a_wrong_step_is_an_error_that_names_it(wrong, message):
    env = Env(Ladder(7, True))
    step = env.step({"action": 0, "reset": True}) | wrong
    step = {k: x for k, x in step.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        check(step, env)


@pytest.mark.parametrize(
    "task, message",
    [
        ("wrld:reach", r"'wrld' is no suite of tasks .*; nearest: world"),
        ("reach", "'reach' is no suite of tasks"),
        ("world:rech", "'rech' is no task of world; nearest: reach"),
        ("crafter:rewards", "'rewards' is no task of crafter; nearest: reward"),
    ],
)
def test_errors_for_unknown_names_suggest_the_nearest(task, message):
    with pytest.raises(ValueError, match=message) as raised:
        make(task, seed=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "task, name",
    [
        ("dmc:reacher_easy", "dm_control"),
        ("atari:pong", "ale_py"),
        ("crafter:reward", "crafter"),
        ("gym:CartPole-v1", "gymnasium"),
    ],
)
def test_a_missing_package_is_an_error(task, name, monkeypatch):
    for known in [k for k in sys.modules if k.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"need the package {name}; run pip install"):
        make(task, seed=0)
