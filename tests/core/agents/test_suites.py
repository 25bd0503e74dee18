"""Suites of optional packages: steps, bounds, ends of episodes."""

import re

import numpy as np
import pytest

from core.agents.envs.checks import check
from core.agents.envs.make import make
from core.agents.envs.pool import Pool


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
