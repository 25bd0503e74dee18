"""The agent in the train loop: acting, replay, episodes, planning, resuming when killed."""

import functools
import json
import signal
import time

import jax
import numpy as np
import pytest
from small import changed, share_programs, start, use_one_device

from configs.dreamer import get_config
from core import train
from core.agents.policy import jit_policy
from core.agents.spaces import Space
from core.config import load_method
from core.data.formats import chunks
from core.nn import distributions
from core.parallel.layouts import unbox
from core.runs import checkpoint, run_folder
from core.section import Section
from dreamer import agent, planner, rssm, world_model
from dreamer.policy import make_policy

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
    """The reach preset, made smaller; fields are written section__field=value."""
    return changed(get_config("reach"), SMALL, **fields)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        share_programs(patch)
        yield


@pytest.mark.parametrize("name", ["dmc_proprio", "dmc_vision", "crafter", "atari100k"])
def test_replays_are_as_large_as_the_published_ones(name):
    replay = get_config(name).replay
    assert (replay.capacity, replay.first_steps) == (5_000_000, 1024)


def written(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line for line in map(json.loads, lines)}


def test_it_steps_as_often_as_its_ratio_asks_and_resumes(tmp_path):
    config = small()
    train.fit(config, tmp_path)
    lines = written(tmp_path)
    # 28 steps of each have 2 x 20 windows; then four steps per update of 32.
    assert [lines[n]["env_steps"] for n in range(1, 7)] == [56, 60, 64, 68, 72, 76]
    assert lines[6]["replay_steps"] == 76 and lines[6]["bad_samples"] == 0
    files = chunks.chunks_in(tmp_path / "replay")
    assert [(c.stream, c.start, c.steps) for c in files] == [(0, 0, 38), (1, 0, 38)]

    config.steps, config.log_steps, config.save_steps = 60, 10, 0
    train.fit(config, tmp_path, allow_config_change=True)
    lines = written(tmp_path)
    assert [lines[n]["env_steps"] for n in (10, 60)] == [92, 292]
    assert lines[60]["episodes"] == 2 and lines[60]["episode_steps"] == 65
    assert np.isfinite([lines[60][k] for k in ("score", "loss", "loss_actor")]).all()


def test_a_replay_can_begin_with_recordings(tmp_path):
    train.fit(small(), tmp_path / "one")
    recorded = str(tmp_path / "one" / "replay")
    config = small(replay__source=recorded, steps=3, save_steps=2)
    train.fit(config, tmp_path / "two")
    lines = written(tmp_path / "two")
    # 38 steps in each of two streams; then two rounds for every update.
    assert [lines[n]["env_steps"] for n in (1, 2, 3)] == [4, 8, 12]
    assert [lines[n]["replay_steps"] for n in (1, 2, 3)] == [80, 84, 88]
    config.steps = 4
    train.fit(config, tmp_path / "two", allow_config_change=True)
    assert written(tmp_path / "two")[4]["replay_steps"] == 92


def test_its_replay_is_a_data_set(tmp_path):
    train.fit(small(), tmp_path)
    records = chunks.ChunkWindows(str(tmp_path / "replay"), 8)
    assert len(records) == 2 * 31
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
    """A small world model and its weights."""
    sizes = {"deter": 16, "hidden": 8, "classes": 4, "depth": 2, "units": 8, "stoch": 4}
    model = world_model.make_world_model(spaces, actions, **sizes)
    init = functools.partial(world_model.init, model)
    return model, jax.jit(lambda key: unbox(init(key)))(jax.random.key(0))


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
        policy, kept = make_policy(model, choose), []
        step = jit_policy(policy, model.actions, seed=0)
        carry = policy.first_carry(2)[0], action[:, 0]
        for t in range(4):
            obs = {"state": state[:, t], "is_first": first[:, t]}
            carry, _, one = step(params, carry, obs, t)
            kept.append(one)
    batch = {"state": state, "action": action, "is_first": first}
    begin = rssm.Latent(*(x * 0 for x in model.rssm.first(2)))
    gumbel = world_model.noise_of(model, batch, jax.random.key(0))
    states, _ = world_model.observe(model, params, begin, batch, gumbel)
    found = np.stack([one["deter"] for one in kept])
    np.testing.assert_allclose(found, states.deter, atol=1e-3)  # kept in half precision
    ids = np.stack([one["stoch"] for one in kept])
    np.testing.assert_array_equal(ids, np.argmax(states.stoch, -1))


def test_evaluation_episodes_are_apart_from_training(tmp_path):
    config = small(steps=1, eval_steps__episodes=0)
    train.fit(config, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["episodes/steps"] == 65 and summary["episodes/score"] > 0
    assert summary["env_steps"] == 56  # without those of the episodes


def test_planning_in_place_of_an_actor(tmp_path):
    state = train.fit(small(behavior="cem", steps=2), tmp_path)
    assert "actor" not in state.params and written(tmp_path)[2]["env_steps"] == 60


def test_discrete_actions_are_planned_by_classes(monkeypatch):
    """The best class of each of two choices, or a random one by a chance."""
    spaces = {"state": Space((3,))}
    actions = {"turn": Space((2,), "int32", classes=3)}
    model, params = little(spaces, actions)
    best = np.array([0, 1, 0, 0, 0, 1], np.float32)

    def cost(self, params, start, plans, key):
        return -(plans * best).sum((-1, -2))

    monkeypatch.setattr(planner.ImaginedReturn, "cost", cost)
    search = {"horizon": 2, "candidates": 64, "best": 8, "rounds": 3}
    make = functools.partial(
        planner.make_planning_chooser, model, kind="categorical", **search
    )
    latent = rssm.Latent(np.zeros((200, 16)), np.zeros((200, 4, 4)))
    found = make(explore=0.0)(params, latent, jax.random.key(0))
    np.testing.assert_array_equal(found, np.tile(best, (200, 1)))
    varied = make(explore=0.5)(params, latent, jax.random.key(0))
    assert (varied.reshape(-1, 3).sum(-1) == 1).all()
    same = (varied == best).all(-1).mean()  # 1/2, and 1/9 of the other half
    assert abs(same - (0.5 + 0.5 / 9)) < 0.12
    with pytest.raises(ValueError, match="behavior 'cem' plans with real actions, but"):
        planner.make_planning_chooser(model, kind="cem", **search, explore=0.0)


def test_plans_go_where_reward_is(monkeypatch):
    """With a reward that depends on the last action, the plan is the best action."""
    spaces, actions = {"state": Space((3,))}, {"push": Space((2,))}
    model, _ = little(spaces, actions)
    best = np.array([0.5, -0.25])

    class Known:
        """An RSSM whose memory is the last action."""

        action = 2

        def apply(self, params, latent, plans, keys, method):
            return rssm.Latent(plans, plans[..., None] * 0)

    def reward(params, x):
        return -((x[..., :2] - best) ** 2).sum(-1, keepdims=True)

    monkeypatch.setattr(planner.distributions, "two_hot_mean", lambda x: x[..., 0])
    model = model._replace(
        rssm=Known(),
        reward=type("R", (), {"apply": staticmethod(reward)}),
        cont=type("C", (), {"apply": staticmethod(lambda p, x: x[..., 0] * 0 + 9.0)}),
    )
    search = {"horizon": 3, "candidates": 300, "best": 30, "rounds": 8}
    choose = planner.make_planning_chooser(model, kind="cem", **search, explore=0.0)
    latent = rssm.Latent(np.zeros((2, 2)), np.zeros((2, 2, 1)))
    params = {"rssm": 0, "reward": 0, "continue": 0}
    found = choose(params, latent, jax.random.key(0))
    np.testing.assert_allclose(found, [best, best], atol=0.03)


def test_a_plan_costs_the_rewards_that_the_episode_lasts_for():
    """Against a plain loop over candidates, with a key for each problem."""
    model, params = little({"state": Space((3,))}, {"push": Space((2,))})
    rng = np.random.default_rng(0)
    for name in ("reward", "continue"):  # or all rewards are 0
        out = params[name]["out"]
        out["kernel"] = out["kernel"] + 0.3 * rng.standard_normal(out["kernel"].shape)
    start = rssm.Latent(
        rng.standard_normal((2, 16)).astype(np.float32),
        np.eye(4, dtype=np.float32)[rng.integers(0, 4, (2, 4))],
    )
    plans = rng.uniform(-1, 1, (2, 3, 5, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 2)
    found = planner.ImaginedReturn(model).cost(params, start, plans, keys)
    expected = np.zeros((2, 3))
    apply = lambda name, head, x: head.apply({"params": params[name]}, x)  # noqa: E731
    for b, s in np.ndindex(2, 3):
        one = jax.tree.map(lambda x, b=b: x[b : b + 1], start)
        key = jax.random.split(keys[b], 3)[s : s + 1]
        states = model.rssm.apply(
            {"params": params["rssm"]}, one, plans[b, s][:, None], key, method="follow"
        )
        x, alive = states.features(), 1.0
        reward = distributions.two_hot_mean(apply("reward", model.reward, x))
        goes_on = jax.nn.sigmoid(apply("continue", model.cont, x))
        for t in range(5):
            expected[b, s] -= alive * reward[t, 0]
            alive *= goes_on[t, 0]
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_runs_from_before_there_were_several_planners_go_on():
    config = json.loads(small().to_json())
    old = {k: x for k, x in config["planner"].items() if not isinstance(x, dict)}
    assert not run_folder.differences(config | {"planner": old}, config)


def test_the_config_stays_as_it_is():
    config = small(dtype="float32")
    before = config.to_json()
    agent.make(Section(config.to_dict()))
    assert config.to_json() == before


def test_bad_settings_are_errors():
    with pytest.raises(ValueError, match="behavior is 'none', but an agent acts"):
        load_method(small(behavior="none"))
    with pytest.raises(ValueError, match="planner.best is 9; use 1 to 8"):
        load_method(small(behavior="cem", planner__best=9))
    with pytest.raises(ValueError, match="behavior 'categorical' plans with discrete"):
        load_method(small(behavior="categorical"))
    with pytest.raises(
        ValueError, match="behavior is 'sem'; use one of actor, none, cem"
    ):
        load_method(small(behavior="sem"))
    with pytest.raises(ValueError, match="'reech' is no task of world; nearest: reach"):
        load_method(small(env__task="world:reech"))
    with pytest.raises(ValueError, match="imagination.last is 1; use 0 for all steps"):
        load_method(small(imagination__last=1))


def test_a_killed_run_resumes(tmp_path, capfd):
    config = small(steps=4000, save_steps=5, log_steps=5)
    process = start(config, tmp_path, preset="configs/dreamer.py:reach")
    folder = tmp_path / "checkpoints"
    while len(checkpoint.steps_in(folder)) < 3 and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.17)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = checkpoint.steps_in(folder)[-1]
    config.steps = saved + 5
    train.fit(config, tmp_path, allow_config_change=True)
    assert f"resuming after step {saved} " in capfd.readouterr().out
    lines = written(tmp_path)
    assert lines[saved + 5]["env_steps"] == 52 + 4 * (saved + 5)
    assert lines[saved + 5]["replay_steps"] == min(4000, 52 + 4 * (saved + 5))
    assert lines[saved + 5]["bad_samples"] == 0
