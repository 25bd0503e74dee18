"""Pools of environments: replacement of broken ones, signals, shutdown."""

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
from numbered import assert_same

from core.agents.envs import world
from core.agents.envs.checks import check
from core.agents.envs.make import make
from core.agents.envs.pool import Pool, worker_seed


def rounds(pool, count, *, reset_at=None):
    """Steps of a pool under random actions that the round determines."""
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
    """A pool of counters, one of which breaks."""
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
    assert ours.lives == theirs.lives == [1, 1]


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
    assert pool.lives == [1, 2, 1]
    (event,) = pool.take_events()
    assert event["name"] == f"environment 1 of {pool.task}"
    assert re.fullmatch(FAILURES[kind], event["reason"])
    assert pool.take_events() == []


def test_one_in_this_process_is_replaced_too(pools):
    pool = bad(pools, "raises", processes=False)
    count = [list(s["count"][:, 0]) for s in rounds(pool, 7)]
    assert count[4:] == [[4, 4, 4], [5, 0, 5], [6, 1, 6]]
    assert [e["reason"] for e in pool.take_events()] == [FAILURES["raises"]]


def test_workers_ignore_signals_but_can_be_killed(pools):
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


def test_environments_step_while_the_caller_is_busy(pools):
    pool = bad(pools, "hangs", count=1, victim=0, timeout_s=1.0)
    rounds(pool, 5)
    began = time.monotonic()
    pool.send({"action": np.zeros((1, 1)), "reset": np.zeros(1, bool)})
    assert time.monotonic() - began < 0.5
    assert pool.receive()["is_first"].all()


@pytest.mark.parametrize(
    "kind, least, message",
    [
        ("never", 0, "could not be started in 3 tries: .*the engine is out of order"),
        ("first", 0, "could not be started in 3 tries: .*the arm came off"),
        ("raises", 30, "failed 6 times within 1000 steps, .*the arm came off"),
    ],
)
def test_an_environment_that_always_fails_ends_the_run(kind, least, message):
    seen = 0
    with pytest.raises(
        ValueError, match=f"environment 0 of {kind} {message}"
    ) as raised:
        pool = Pool(kind, count=2, seed=4, processes=False, make=envs_bad.make)
        for _ in range(100):
            rounds(pool, 1)
            seen += 1
    assert seen >= least and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["never", "first"])
def test_an_environment_that_never_starts_leaves_no_process(kind):
    with pytest.raises(ValueError, match="could not be started in 3 tries"):
        rounds(Pool(kind, count=1, seed=4, make=envs_bad.make), 1)
    assert multiprocessing.active_children() == []


def test_rare_failures_do_not_end_the_run(pools, monkeypatch):
    monkeypatch.setattr("core.agents.envs.pool.WINDOW", 20)
    pool = pools("raises", count=1, processes=False, make=envs_bad.make)
    rounds(pool, 60)
    assert pool.lives == [12]


def test_an_action_must_be_finite(pools):
    pool = bad(pools, "", processes=False)
    action = np.array([[0], [np.nan], [0]])
    with pytest.raises(ValueError, match="'action' of environment 1 of .* be finite"):
        pool.send({"action": action, "reset": np.zeros(3, bool)})


PARENT = """
import os, sys, numpy as np, envs_bad
from core.agents.envs.pool import Pool
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


def test_a_failing_picture_is_a_warning(pools, monkeypatch, caplog):
    def fail(self):
        raise RuntimeError("no display")

    monkeypatch.setattr(world.Reach, "picture", fail)
    pool = pools("world:reach", count=1, processes=False)
    pool.send({"action": np.zeros((1, 2)), "reset": np.ones(1, bool)})
    pool.receive()
    assert pool.picture() is None and pool.picture() is None
    assert caplog.text.count("cannot be drawn: RuntimeError: no display") == 1
    assert not pool.take_events()
