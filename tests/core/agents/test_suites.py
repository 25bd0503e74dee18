"""Suites of optional packages: steps, bounds, ends of episodes."""

import re

import numpy as np
import pytest

from core.agents.envs.checks import check
from core.agents.envs.make import make
from core.agents.envs.pool import Pool
from core.agents.spaces import Space


def random_actions(env, rng):
    found = {}
    for name, space in env.actions.items():
        if space.is_discrete:
            found[name] = rng.integers(space.classes, size=space.shape)
        else:
            found[name] = rng.uniform(-1.5, 1.5, space.shape)
    return found | {"reset": False}


WALKER = {"orientations": (14,), "height": (1,), "velocity": (9,)}


@pytest.mark.parametrize(
    "task, name, shapes",
    [
        ("dmc:walker_walk", "dm_control", WALKER),
        ("dmc:ball_in_cup_catch", "dm_control", {"position": (4,), "velocity": (4,)}),
        ("atari:freeway", "ale_py", {"image": (64, 64, 3)}),
        ("crafter:reward", "crafter", {"image": (64, 64, 3)}),
        ("gym:Pendulum-v1", "gymnasium", {"state": (3,)}),
    ],
)
def test_suites_give_sound_steps(task, name, shapes):
    pytest.importorskip(name, reason=f"{name} is in requirements-envs.txt")
    envs = [make(task, seed=s, repeat=2) for s in (1, 1, 2)]
    assert {k: s.shape for k, s in envs[0].observations.items()} == shapes
    ends = []
    for env in envs:
        rng, steps = np.random.default_rng(0), []
        for _ in range(12):
            steps.append(check(env.step(random_actions(env, rng)), env))
        assert [s["is_first"] for s in steps] == [True] + [False] * 11
        ends.append(b"".join(steps[-1][k].tobytes() for k in env.observations))
        env.close()
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize(
    "task, name", [("atari:freeway", "ale_py"), ("crafter:reward", "crafter")]
)
def test_people_see_what_the_agent_sees(task, name):
    pytest.importorskip(name, reason=f"{name} is in requirements-envs.txt")
    env = make(task, seed=0, size=48)
    step = env.step({"action": 0, "reset": True})
    np.testing.assert_array_equal(env.picture(), step["image"])


def test_dmc_episodes_end_by_time():
    pytest.importorskip("dm_control", reason="dm_control is in requirements-envs.txt")
    env = make("dmc:reacher_easy", seed=0, repeat=4)
    still = {"action": np.zeros(2), "reset": False}
    steps = [env.step(still) for _ in range(252)]
    assert [i for i, s in enumerate(steps) if s["is_last"]] == [250]
    assert [i for i, s in enumerate(steps) if s["is_first"]] == [0, 251]
    assert not any(s["is_terminal"] for s in steps)
    with pytest.raises(ValueError, match="no task of dmc; nearest: reacher_easy"):
        make("dmc:reacher_esy", seed=0)


def test_dmc_images_are_seen_in_a_worker():
    pytest.importorskip("dm_control", reason="dm_control is in requirements-envs.txt")
    # What draws is chosen once in a process, and other tests came first in this one.
    pool = None
    try:
        pool = Pool("dmc_image:reacher_easy", count=1, seed=0, size=32)
        pool.send({"action": np.zeros((1, 2)), "reset": np.zeros(1, bool)})
        image = pool.receive()["image"]
    except ValueError as error:
        if not re.search("GL|gl[A-Z]", str(error)):
            raise
        pytest.skip("no OpenGL to draw with")
    finally:
        if pool:
            pool.close()
    assert image.shape == (1, 32, 32, 3) and image.std() > 10


def test_atari_time_runs_out_without_an_end(monkeypatch):
    pytest.importorskip("ale_py", reason="ale_py is in requirements-envs.txt")
    monkeypatch.setattr("core.agents.envs.atari.MOST_FRAMES", 10)
    env = make("atari:pong", seed=0, repeat=4)
    steps = [env.step({"action": 0, "reset": False}) for _ in range(5)]
    assert [s["is_last"] for s in steps] == [False, False, False, True, False]
    assert not any(s["is_terminal"] for s in steps)


def test_atari_games_end_when_all_is_lost():
    pytest.importorskip("ale_py", reason="ale_py is in requirements-envs.txt")
    env, points = make("atari:pong", seed=0, repeat=4), 0
    for _ in range(1000):
        step = env.step({"action": 0, "reset": False})
        points += step["reward"]
        if step["is_last"]:
            break
    assert step["is_terminal"] and points == -21


def test_gym_is_what_gymnasium_gives():
    gymnasium = pytest.importorskip(
        "gymnasium", reason="gymnasium is in requirements-envs.txt"
    )
    env = make("gym:CartPole-v1", seed=0)
    step, native = env.step({"action": 0, "reset": True}), gymnasium.make("CartPole-v1")
    native.reset()
    native.unwrapped.state = step["state"].astype(np.float64)
    for i in range(100):
        step = env.step({"action": np.int32(i % 3 == 0), "reset": False})
        state, reward, terminal, _, _ = native.step(int(i % 3 == 0))
        np.testing.assert_allclose(step["state"], state, rtol=1e-4, atol=1e-6)
        assert (step["reward"], step["is_terminal"]) == (reward, terminal)
        if terminal:
            break
    assert step["is_last"] and step["is_terminal"]


def test_gym_spaces_of_all_kinds():
    gymnasium = pytest.importorskip(
        "gymnasium", reason="gymnasium is in requirements-envs.txt"
    )
    from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

    inf = np.inf

    class Zoo(gymnasium.Env):
        observation_space = Dict(
            {
                "eye": Box(0, 255, (20, 10, 1), np.uint8),
                "inner": Dict({"mood": Discrete(3, start=-1)}),
                "limbs": MultiDiscrete([2, 4]),
                "heat": Box(-1, 1, ()),
            }
        )
        action_space = Dict(
            {
                "go": Box(np.array([0, -inf]), np.array([10, inf]), dtype=np.float64),
                "say": MultiDiscrete([2, 3]),
                "hands": Dict({"grip": Discrete(4, start=5)}),
            }
        )
        done = []

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            found = self.observation_space.sample()
            return found | {"inner": {"mood": np.int64(1)}, "heat": 0.5}, {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.done.append(action)
            return self.reset()[0], 1, False, len(self.done) == 2, {}

    gymnasium.register("Zoo-v0", Zoo)
    try:
        env = make("gym:Zoo-v0", seed=0, size=16)
    finally:
        del gymnasium.registry["Zoo-v0"]
    assert env.observations == {
        "eye": Space((16, 16, 1), "uint8"),
        "inner/mood": Space((), "int32", 3),
        "limbs": Space((2,), "int32", 4),
        "heat": Space((1,)),
    }
    assert env.actions == {
        "go": Space((2,)),
        "say_0": Space((), "int32", 2),
        "say_1": Space((), "int32", 3),
        "hands/grip": Space((), "int32", 4),
    }
    step = check(env.step({"reset": True}), env)
    assert step["inner/mood"] == 2 and step["heat"] == [0.5]
    say = {"say_0": 1, "say_1": 2, "hands/grip": 3}
    go = say | {"go": np.array([0.5, -0.25]), "reset": False}
    steps = [check(env.step(go), env) for _ in range(3)]
    done = Zoo.done[0]
    assert done["go"].tolist() == [7.5, -0.25] and done["say"].tolist() == [1, 2]
    assert done["hands"]["grip"] == 8
    assert [s["is_last"] for s in steps] == [False, True, False]
    assert not any(s["is_terminal"] for s in steps)
