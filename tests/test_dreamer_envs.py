"""Environments: what a step holds, the laws of the embedded task, who replaces the broken."""

import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import envs_bad
import numpy as np
import psutil
import pytest

from dreamer.envs import world
from dreamer.envs.checks import check
from dreamer.envs.env import Env, to_bounds
from dreamer.envs.make import make
from dreamer.envs.pool import Pool, worker_seed
from dreamer.spaces import Space

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


def assert_same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        np.testing.assert_array_equal(a[k], b[k], err_msg=k)


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


def test_an_episode_of_the_task_ends_by_time_alone():
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


def test_the_expert_scores_far_above_chance():
    env = make("world:reach", seed=1)

    def score(policy):
        return [sum(s["reward"] for s in episode(env, policy)) for _ in range(12)]

    good, chance = score(world.expert), score(at_random(0))
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


def test_what_cannot_be_drawn_is_told_and_goes_on(pools, monkeypatch, caplog):
    def fail(self):
        raise RuntimeError("no display")

    monkeypatch.setattr(world.Reach, "picture", fail)
    pool = pools("world:reach", count=1, processes=False)
    pool.send({"action": np.zeros((1, 2)), "reset": np.ones(1, bool)})
    pool.receive()
    assert pool.picture() is None and pool.picture() is None
    assert caplog.text.count("cannot be drawn: RuntimeError: no display") == 1
    assert not pool.take_events()


def test_an_episode_is_a_function_of_seed_and_number():
    a, b, c = (make("world:reach", seed=s) for s in (5, 5, 6))
    whole = [episode(a, at_random(9)) for _ in range(2)]
    b.step(NONE), b.step(push(1, 1))  # an episode broken off
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
        self.actions = {"action": Space(())}

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
    low, high = np.array([0, -2, -np.inf, 0]), np.array([4, 2, np.inf, np.inf])
    found = [to_bounds(np.full(4, x), low, high) for x in (-9, -1, 0, 0.5, 1, 9)]
    expected = [
        [0, -2, -1, 0],
        [0, -2, -1, 0],
        [2, 0, 0, 0],
        [3, 1, 0.5, 0.5],
        [4, 2, 1, 1],
        [4, 2, 1, 1],
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "wrong, said",
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
def test_a_wrong_step_is_told_by_name(wrong, said):
    env = Env(Ladder(7, True))
    step = env.step({"action": 0, "reset": True}) | wrong
    step = {k: x for k, x in step.items() if x is not None}
    with pytest.raises(ValueError, match=said):
        check(step, env)


@pytest.mark.parametrize(
    "task, said",
    [
        ("wrld:reach", r"'wrld' is no suite of tasks .*; nearest: world"),
        ("reach", "'reach' is no suite of tasks"),
        ("world:rech", "'rech' is no task of world; nearest: reach"),
        ("crafter:rewards", "'rewards' is no task of crafter; nearest: reward"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(task, said):
    with pytest.raises(ValueError, match=said) as told:
        make(task, seed=0)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "task, name",
    [
        ("dmc:reacher_easy", "dm_control"),
        ("atari:pong", "ale_py"),
        ("crafter:reward", "crafter"),
        ("gym:CartPole-v1", "gymnasium"),
    ],
)
def test_an_absent_package_is_told(task, name, monkeypatch):
    for known in [k for k in sys.modules if k.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"need the package {name}; run pip install"):
        make(task, seed=0)


def rounds(pool, count, *, reset_at=None):
    """Steps of a pool whose actions are drawn by their round."""
    found = []
    for i in range(count):
        rng = np.random.default_rng(i)
        actions = {
            name: rng.uniform(-1, 1, (pool.count, *space.shape)).astype(np.float32)
            for name, space in pool.actions.items()
        }
        pool.send(actions | {"reset": np.full(pool.count, i == reset_at)})
        found.append(pool.receive())
    return found


@pytest.fixture
def pools():
    """Makes pools that end with the test."""
    made = []

    def start(task, *, count, **kw):
        made.append(Pool(task, count=count, seed=4, **kw))
        return made[-1]

    yield start
    for pool in made:
        pool.close()


def bad(pools, kind, *, count=3, victim=1, **kw):
    """A pool of counters of which one breaks."""
    task = f"{kind}:{worker_seed(4, victim, 0)}"
    return pools(task, count=count, make=envs_bad.make, **kw)


def test_processes_change_no_number(pools):
    ours = pools("world:reach", count=2, processes=False)
    theirs = pools("world:reach", count=2)
    assert ours.observations == theirs.observations and ours.actions == theirs.actions
    one = make("world:reach", seed=worker_seed(4, 1, 0))
    steps = [rounds(pool, 70, reset_at=40) for pool in (ours, theirs)]
    for i, (a, b) in enumerate(zip(*steps, strict=True)):
        assert_same(a, b)
        action = np.random.default_rng(i).uniform(-1, 1, (2, 2)).astype(np.float32)[1]
        alone = check(one.step({"action": action, "reset": i == 40}), one)
        assert_same(alone, {k: x[1] for k, x in a.items()})
    assert steps[0][0]["bodies"].shape == (2, 8)
    assert not np.array_equal(*steps[0][0]["bodies"])
    assert ours.restarts == theirs.restarts == 0


FAILURES = {
    "raises": "RuntimeError: the arm came off",
    "exits": "its process ended with exit code 7",
    "hangs": "no answer within 2 s",
    "double": r"ValueError: count is float64 \(1,\); expected float32 \(1,\)",
    "nan": r"ValueError: count holds nan; expected float32 \(1,\), all finite",
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_broken_environment_is_replaced(pools, kind):
    pool = bad(pools, kind, timeout_s=2.0 if kind == "hangs" else 60.0)
    steps = rounds(pool, 9)
    count = np.array([s["count"][:, 0] for s in steps])
    np.testing.assert_array_equal(count[:, 0], np.arange(9))
    np.testing.assert_array_equal(count[:, 2], np.arange(9))
    np.testing.assert_array_equal(count[:, 1], [0, 1, 2, 3, 4, 0, 1, 2, 3])
    assert [s["is_first"][1] for s in steps] == [x == 0 for x in count[:, 1]]
    assert steps[5]["reward"][1] == 0 and steps[5]["reward"][0] != 0
    assert steps[5]["seed"][1, 0] == np.float32(worker_seed(4, 1, 1))
    assert pool.restarts == 1
    (event,) = pool.take_events()
    assert event["name"] == f"environment 1 of {pool.task}"
    assert re.fullmatch(FAILURES[kind], event["reason"])
    assert pool.take_events() == []


def test_one_in_this_process_is_replaced_too(pools):
    pool = bad(pools, "raises", processes=False)
    count = [list(s["count"][:, 0]) for s in rounds(pool, 7)]
    assert count[4:] == [[4, 4, 4], [5, 0, 5], [6, 1, 6]]
    assert [e["reason"] for e in pool.take_events()] == [FAILURES["raises"]]


def test_workers_hear_no_signals_but_can_be_killed(pools):
    pool = bad(pools, "", count=2)
    assert not np.any([s["jax"] for s in rounds(pool, 2)])
    first, second = (worker.process.pid for worker in pool.workers)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(first, number), os.kill(second, number)
    assert rounds(pool, 1)[0]["count"][:, 0].tolist() == [2, 2]
    os.kill(second, signal.SIGKILL)
    assert rounds(pool, 1)[0]["count"][:, 0].tolist() == [3, 0]
    assert pool.take_events()[0]["reason"] == "its process ended with exit code -9"
    third = pool.workers[1].process.pid
    pool.close()
    assert not any(map(psutil.pid_exists, (first, second, third)))


def test_they_step_while_the_caller_is_busy(pools):
    pool = bad(pools, "hangs", count=1, victim=0, timeout_s=1.0)
    rounds(pool, 5)
    began = time.monotonic()
    pool.send({"action": np.zeros((1, 1)), "reset": np.zeros(1, bool)})
    assert time.monotonic() - began < 0.5
    assert pool.receive()["is_first"].all()


@pytest.mark.parametrize(
    "kind, least, said",
    [
        ("never", 0, "could not be started in 3 tries: .*the engine is out of order"),
        ("first", 0, "could not be started in 3 tries: .*the arm came off"),
        ("raises", 30, "failed 6 times within 1000 steps, .*the arm came off"),
    ],
)
def test_what_fails_for_ever_ends_the_run(kind, least, said):
    seen = 0
    with pytest.raises(ValueError, match=f"environment 0 of {kind} {said}") as told:
        pool = Pool(kind, count=2, seed=4, processes=False, make=envs_bad.make)
        for _ in range(100):
            rounds(pool, 1)
            seen += 1
    assert seen >= least and "\n" not in str(told.value)


@pytest.mark.parametrize("kind", ["never", "first"])
def test_what_never_starts_leaves_no_process(kind):
    with pytest.raises(ValueError, match="could not be started in 3 tries"):
        rounds(Pool(kind, count=1, seed=4, make=envs_bad.make), 1)
    assert multiprocessing.active_children() == []


def test_failures_far_apart_are_borne(pools, monkeypatch):
    monkeypatch.setattr("dreamer.envs.pool.WINDOW", 20)
    pool = pools("raises", count=1, processes=False, make=envs_bad.make)
    rounds(pool, 60)
    assert pool.restarts == 11


def test_an_action_must_be_finite(pools):
    pool = bad(pools, "", processes=False)
    action = np.array([[0], [np.nan], [0]])
    with pytest.raises(ValueError, match="'action' of environment 1 of .* be finite"):
        pool.send({"action": action, "reset": np.zeros(3, bool)})


PARENT = """
import os, sys, numpy as np, envs_bad
from dreamer.envs.pool import Pool
if __name__ == "__main__":
    pool = Pool("hangs", count=1, seed=4, make=envs_bad.make)
    nothing = {"action": np.zeros((1, 1)), "reset": np.zeros(1, bool)}
    for _ in range(5):
        pool.send(nothing), pool.receive()
    pool.send(nothing)
    print(pool.workers[0].process.pid, flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["killed", "returns"])
def test_no_worker_outlives_the_run(end, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), "tests"])}
    command = [sys.executable, script, end]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == {"killed": -9, "returns": 0}[end], done.stderr
    try:
        psutil.Process(int(done.stdout)).wait(10)
    except psutil.NoSuchProcess:
        pass
