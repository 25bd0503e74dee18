"""The agent through the one train loop: it acts, remembers, learns, and goes on when killed."""

import functools
import json
import signal
import time
import types

import jax
import numpy as np
import pytest
from small import changed, start, use_one_device

from configs.dreamer import get_config
from core import train
from core.agents import collection
from core.agents.episodes import make_episodes
from core.agents.spaces import Space
from core.config import load_method
from core.data.formats import chunks
from core.parallel.layouts import unbox
from core.planning import cem
from core.runs import checkpoint
from dreamer import rssm, world_model

SMALL = {
    "batch": 4,
    "length": 8,
    "steps": 6,
    "log_steps": 1,
    "save_steps": 3,
    "model": {"deter": 16, "hidden": 8, "classes": 4, "units": 8, "stoch": 4},
    "imagination": {"horizon": 3},
    "env": {"count": 2},
    "replay": {"ratio": 8, "capacity": 4000, "first_steps": 40},
    "planner": {"horizon": 3, "candidates": 8, "best": 3, "rounds": 2},
    "episodes": {"count": 2, "most_steps": 70},
    "eval_steps": {"episodes": -1},
    "mesh": {"data": 1, "fsdp": 1},
}


def small(**fields):
    """The reach preset made smaller still; fields are written section__field=value."""
    return changed(get_config("reach"), SMALL, **fields)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    use_one_device(monkeypatch)


def written(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line for line in map(json.loads, lines)}


def test_it_steps_as_often_as_its_ratio_says_and_goes_on(tmp_path):
    config = small()
    train.fit(config, tmp_path)
    told = written(tmp_path)
    # 40 steps first, the last of which count; then four for 32 that are trained on.
    assert [told[n]["env_steps"] for n in range(1, 7)] == [42, 46, 50, 54, 58, 62]
    assert told[6]["replay_steps"] == 62 and told[6]["bad_samples"] == 0
    files = chunks.chunks_in(tmp_path / "replay")
    assert [(c.stream, c.start, c.steps) for c in files] == [(0, 0, 31), (1, 0, 31)]

    config.steps, config.log_steps, config.save_steps = 60, 10, 0
    train.fit(config, tmp_path, allow_config_change=True)
    told = written(tmp_path)
    assert [told[n]["env_steps"] for n in (10, 60)] == [78, 278]
    assert told[60]["episodes"] == 2 and told[60]["episode_steps"] == 65
    assert np.isfinite([told[60][k] for k in ("score", "loss", "loss_actor")]).all()


def test_it_begins_with_what_another_has_recorded(tmp_path):
    train.fit(small(), tmp_path / "one")
    recorded = str(tmp_path / "one" / "replay")
    config = small(replay__source=recorded, steps=3, save_steps=2)
    train.fit(config, tmp_path / "two")
    told = written(tmp_path / "two")
    # 31 steps in each of two streams; two more rounds for every update, and no more.
    assert [told[n]["env_steps"] for n in (1, 2, 3)] == [4, 8, 12]
    assert [told[n]["replay_steps"] for n in (1, 2, 3)] == [66, 70, 74]
    config.steps = 4
    train.fit(config, tmp_path / "two", allow_config_change=True)
    assert written(tmp_path / "two")[4]["replay_steps"] == 78


def test_what_it_lived_through_is_a_dataset(tmp_path):
    train.fit(small(), tmp_path)
    records = chunks.ChunkWindows(str(tmp_path / "replay"), 8)
    assert len(records) == 2 * 24
    config = get_config("tiny")
    config.data.source, config.data.workers = str(tmp_path / "replay"), 0
    batch = next_batch(load_method(config))
    assert batch["bodies"].shape == (8, 24, 8) and batch["action"].shape == (8, 24, 2)


def next_batch(method):
    source = method.source("train", (0, 1), "unused")
    try:
        return source.next()
    finally:
        source.close()


def little(spaces, actions):
    """A world model of few units, and its weights."""
    sizes = {"deter": 16, "hidden": 8, "classes": 4, "depth": 2, "units": 8, "stoch": 4}
    model = world_model.make_world_model(spaces, actions, **sizes)
    return model, unbox(world_model.init(model, jax.random.key(0)))


def test_acting_step_by_step_is_observing_a_sequence(monkeypatch):
    monkeypatch.setattr(world_model, "noise", lambda key, shape: np.zeros(shape))
    spaces, actions = {"state": Space((3,))}, {"push": Space((2,))}
    model, params = little(spaces, actions)
    rng = np.random.default_rng(0)
    state = rng.standard_normal((2, 4, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (2, 4, 2)).astype(np.float32)
    first = np.zeros((2, 4), bool)
    first[:, 0] = first[1, 2] = True
    chosen = iter(np.moveaxis(action, 1, 0)[1:])
    choose = lambda params, latent, key: next(chosen, action[:, 0])  # noqa: E731
    with jax.disable_jit():
        policy = collection.make_policy(model, choose, seed=0)
        carry, kept = collection.no_carry(model, 2), []
        carry = carry[0], action[:, 0]
        for t in range(4):
            obs = {"state": state[:, t], "is_first": first[:, t]}
            carry, _, one = policy(params, carry, obs, t)
            kept.append(one)
    batch = {"state": state, "action": action, "is_first": first}
    begin = rssm.Latent(*(x * 0 for x in model.rssm.first(2)))
    gumbel = world_model.noise_of(model, batch, jax.random.key(0))
    states, _ = world_model.observe(model, params, begin, batch, gumbel)
    found = np.stack([one["deter"] for one in kept])
    np.testing.assert_allclose(found, states.deter, atol=1e-3)  # kept in half precision
    ids = np.stack([one["stoch"] for one in kept])
    np.testing.assert_array_equal(ids, np.argmax(states.stoch, -1))


def test_episodes_are_played_apart_from_training(tmp_path):
    config = small(steps=1, eval_steps__episodes=0)
    train.fit(config, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["episodes/steps"] == 65 and summary["episodes/score"] > 0
    assert summary["env_steps"] == 42  # those of the episodes do not count


class Ticks:
    """Environments whose gray pictures tell the time, for some steps."""

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


def test_an_episode_is_a_film():
    spaces = {"image": Space((48, 48, 1), "uint8")}, {"push": Space((2,))}
    model, params = little(*spaces)
    choose = lambda params, latent, key: np.zeros((2, 2), np.float32)  # noqa: E731
    judge = make_episodes(model, choose, Ticks, seed=0, count=2, most_steps=9)
    found = judge(types.SimpleNamespace(params=params))
    assert found["episodes/score"] == 15 and found["episodes/steps"] == 5
    film = found["episode"]
    assert film.shape == (5, 48, 48, 3)
    assert film[:, 7, 9, 1].tolist() == [10, 20, 30, 40, 50]


def test_long_episodes_show_steps_equally_far_apart(monkeypatch):
    monkeypatch.setattr("core.agents.episodes.FRAMES", 2)
    spaces = {"image": Space((48, 48, 1), "uint8")}, {"push": Space((2,))}
    model, params = little(*spaces)
    choose = lambda params, latent, key: np.zeros((1, 2), np.float32)  # noqa: E731
    ticks = functools.partial(Ticks, steps=11)
    judge = make_episodes(model, choose, ticks, seed=0, count=1, most_steps=20)
    film = judge(types.SimpleNamespace(params=params))["episode"]
    assert film[:, 0, 0, 0].tolist() == [10, 50, 90]


def test_planning_in_place_of_an_actor(tmp_path):
    state = train.fit(small(behavior="cem", steps=2), tmp_path)
    assert "actor" not in state.params and written(tmp_path)[2]["env_steps"] == 46


def test_plans_go_where_reward_is(monkeypatch):
    """With a reward that tells the last action, the plan is the best action."""
    spaces, actions = {"state": Space((3,))}, {"push": Space((2,))}
    model, _ = little(spaces, actions)
    best = np.array([0.5, -0.25])

    class Known:
        """A world whose memory is the last action."""

        action = 2

        def apply(self, params, latent, plans, keys, method):
            return rssm.Latent(plans, plans[..., None] * 0)

    def reward(params, x):
        return -((x[..., :2] - best) ** 2).sum(-1, keepdims=True)

    monkeypatch.setattr(cem.distributions, "two_hot_mean", lambda x: x[..., 0])
    model = model._replace(
        rssm=Known(),
        reward=type("R", (), {"apply": staticmethod(reward)}),
        cont=type("C", (), {"apply": staticmethod(lambda p, x: x[..., 0] * 0 + 9.0)}),
    )
    planner = {"horizon": 3, "candidates": 300, "best": 30, "rounds": 8}
    choose = cem.make_chooser(model, **planner, explore=0.0)
    latent = rssm.Latent(np.zeros((2, 2)), np.zeros((2, 2, 1)))
    params = {"rssm": 0, "reward": 0, "continue": 0}
    found = choose(params, latent, jax.random.key(0))
    np.testing.assert_allclose(found, [best, best], atol=0.03)


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="behavior is 'none', but an agent acts"):
        load_method(small(behavior="none"))
    with pytest.raises(ValueError, match="planner.best is 9; use 1 to 8"):
        load_method(small(behavior="cem", planner__best=9))
    with pytest.raises(ValueError, match="'reech' is no task of world; nearest: reach"):
        load_method(small(env__task="world:reech"))
    with pytest.raises(ValueError, match="imagination.last is 1; use 0 for all steps"):
        load_method(small(imagination__last=1))


def test_killed_at_any_moment_it_goes_on(tmp_path):
    config = small(steps=4000, save_steps=5, log_steps=5)
    preset = "configs/dreamer.py:reach"
    process = start(config, tmp_path, preset=preset)
    folder = tmp_path / "checkpoints"
    while len(checkpoint.steps_in(folder)) < 3 and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.17)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = checkpoint.steps_in(folder)[-1]
    config.steps = saved + 5
    process = start(config, tmp_path, "--allow_config_change", preset=preset)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"resuming after step {saved} " in out
    told = written(tmp_path)
    assert told[saved + 5]["env_steps"] == 38 + 4 * (saved + 5)
    assert told[saved + 5]["replay_steps"] == min(4000, 38 + 4 * (saved + 5))
    assert told[saved + 5]["bad_samples"] == 0
