"""Evaluation episodes by a policy written by hand: scores, and the film of one."""

import functools
import types

import numpy as np
import pytest
import walk

from core.agents.episodes import make_episodes
from core.agents.policy import Policy
from core.agents.spaces import Space
from core.method import Watch

STATE = types.SimpleNamespace(params={"step": np.float32(0.5)})
SPACES = {"spaces": walk.SPACES, "actions": walk.ACTIONS}


def test_scores_are_sums_of_rewards():
    evaluate = make_episodes(
        walk.POLICY, walk.make_pool, **SPACES, seed=0, count=3, most_steps=20
    )
    found, again = (evaluate(STATE, Watch()) for _ in range(2))
    assert found["episodes/steps"] == walk.STEPS + 1
    assert found["episodes/score"] == again["episodes/score"]
    assert found["episodes/score_deviation"] > 0
    # Sides 0, 1, 2, 0, 1 and steps of 0.5 from places 0 to 6.
    gains = np.cumsum([0.5, 1.5, 2.5, 0.5, 1.5]).sum()
    assert gains - 2 < found["episodes/score"] < gains + 5 * 6 + 2


def test_unfinished_episodes_count_as_far_as_they_went():
    evaluate = make_episodes(
        walk.POLICY, walk.make_pool, **SPACES, seed=0, count=3, most_steps=4
    )
    assert evaluate(STATE, Watch())["episodes/steps"] == 4


class Ticks:
    """Environments whose gray pictures show the time, for some steps."""

    def __init__(self, *, count, seed, steps=5):
        self.count, self.time, self.steps = count, 0, steps

    def send(self, actions):
        assert actions["reset"].all() == (self.time == 0)
        self.time += 1

    def receive(self):
        all_ = functools.partial(np.full, self.count)
        return {
            "image": np.zeros((self.count, 48, 48, 1), np.uint8),
            "reward": all_(self.time, np.float32),
            "is_first": all_(self.time == 1),
            "is_last": all_(self.time == self.steps),
        }

    def picture(self):
        return np.full((48, 48, 1), 10 * self.time % 256, np.uint8)

    def close(self):
        pass


STILL = Policy(
    lambda count: np.zeros((count, 2), np.float32),
    lambda params, carry, observation, key: (carry, carry, {}),
)
TICKING = {
    "spaces": (("image", Space((48, 48, 1), "uint8")),),
    "actions": (("push", Space((2,))),),
}


def test_an_episode_is_a_film():
    evaluate = make_episodes(STILL, Ticks, **TICKING, seed=0, count=2, most_steps=9)
    found = evaluate(STATE, Watch())
    assert found["episodes/score"] == 15 and found["episodes/steps"] == 5
    film = found["episode"]
    assert film.shape == (5, 48, 48, 3)
    assert film[:, 7, 9, 1].tolist() == [10, 20, 30, 40, 50]


def test_long_episodes_show_steps_equally_far_apart(monkeypatch):
    monkeypatch.setattr("core.agents.episodes.FRAMES", 2)
    ticks = functools.partial(Ticks, steps=11)
    evaluate = make_episodes(STILL, ticks, **TICKING, seed=0, count=1, most_steps=20)
    film = evaluate(STATE, Watch())["episode"]
    assert film[:, 0, 0, 0].tolist() == [10, 50, 90]


def test_a_failing_policy_closes_its_environments(monkeypatch):
    closed = []
    monkeypatch.setattr(Ticks, "close", lambda self: closed.append(1))
    broken = STILL._replace(act=lambda *args: 1 / 0)
    evaluate = make_episodes(broken, Ticks, **TICKING, seed=0, count=1, most_steps=9)
    with pytest.raises(ZeroDivisionError):
        evaluate(STATE, Watch())
    assert closed == [1]
