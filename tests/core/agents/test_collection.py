"""Collection by a policy written by hand: rounds, actions, kept arrays, resuming."""

import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import walk
from numbered import assert_same

from core.agents import collection
from core.agents.collection import Online
from core.data.formats import chunks

STREAMS, LENGTH, BATCH = 2, 3, 4


def make_state(mark=0):
    """What the policy needs of a state: parameters, and newer kept arrays."""
    return types.SimpleNamespace(
        params={"step": jnp.float32(0.5)},
        memory=jnp.full((BATCH, LENGTH, 2), float(mark)),
        age=jnp.full((BATCH, LENGTH), mark, jnp.int32),
    )


@pytest.fixture
def make(tmp_path):
    """Makes online sources that end with the test."""
    made = []

    def start(folder="replay", *, policy=walk.POLICY, prefill=lambda: None, **changes):
        size = {"streams": STREAMS, "length": LENGTH}
        replay = walk.make_replay(tmp_path / folder, policy=policy, **size)
        numbers = {"batch": BATCH, "ratio": 2, "first_steps": 20, "seed": 3} | changes
        made.append(
            Online(
                lambda seed: walk.make_pool(count=STREAMS, seed=seed),
                replay,
                policy,
                (lambda: prefill(replay)) if prefill.__code__.co_argcount else prefill,
                spaces=walk.SPACES,
                actions=walk.ACTIONS,
                **numbers,
            )
        )
        return made[-1]

    yield start
    for source in made:
        source.close()


def test_it_steps_as_often_as_its_ratio_asks(make):
    source = make()
    steps = []
    for _ in range(4):
        source.next(make_state())
        steps.append(source.report()["numbers"]["env_steps"])
    # 13 steps of each have 2 x 10 windows; then each gives two to train on, of 12.
    assert steps == [26, 32, 38, 44]
    assert source.report()["seen"] == 22


def test_the_replay_holds_what_happened(make):
    source = make()
    source.next(make_state())
    steps = {k: x[:, : source.rounds] for k, x in source.replay.steps.items()}
    age = np.arange(source.rounds) % (walk.STEPS + 1)
    np.testing.assert_array_equal(steps["is_first"], [age == 0] * STREAMS)
    np.testing.assert_array_equal(steps["is_last"], [age == walk.STEPS] * STREAMS)
    np.testing.assert_array_equal(steps["memory"], np.tile(age[:, None], (2, 1, 2)))
    # A vector is the one-hot side and the step; after an episode's last step it is zero.
    side = np.where(age == walk.STEPS, 0, age % 3)
    taken = steps["action"][..., :3]
    np.testing.assert_array_equal(taken.argmax(-1), [side] * STREAMS)
    np.testing.assert_array_equal(taken.sum(-1), [age != walk.STEPS] * STREAMS)
    # Environments move by the actions, as they are named.
    moved = np.diff(steps["place"][..., 0])[:, age[1:] > 0]
    expected = (side + steps["action"][..., 3])[:, :-1][:, age[1:] > 0]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_noise_is_that_of_the_seed_and_the_round(make):
    source = make()
    source.next(make_state())
    for i in (0, 1, 7):
        key = jax.random.fold_in(jax.random.key(3), i)
        noise = jax.random.normal(key, (STREAMS, 1))[:, 0]
        found = source.replay.steps["action"][:, i, 3]
        np.testing.assert_allclose(found, 0.5 + 0.1 * noise, atol=1e-6)


def test_batches_are_windows_with_the_context_of_kept_arrays(make):
    batch = make().next(make_state())
    assert batch["place"].shape == (BATCH, LENGTH, 1)
    assert batch["action"].shape == (BATCH, LENGTH, 4)
    assert batch["memory"].shape == (BATCH, 2) and batch["memory"].dtype == np.float16
    # The action before the first step is the context's: its side tells the age there.
    ended, side = batch["is_first"][:, 0], batch["action"][:, 0, :3].argmax(-1)
    np.testing.assert_array_equal(batch["age"] == walk.STEPS, ended)
    np.testing.assert_array_equal(batch["age"][~ended] % 3, side[~ended])
    np.testing.assert_array_equal(batch["memory"], batch["age"][:, None] * np.ones(2))


def test_kept_arrays_come_back_from_updates_one_late(make):
    source = make(first_steps=40)
    source.next(make_state())
    stream, start = source.last_windows.T
    state = make_state(mark=9)
    source.next(state)  # the update of the first batch gave this state
    assert not (source.replay.steps["age"] == 9).any()
    (
        state.memory.delete(),
        state.age.delete(),
    )  # as the next update, which gets the state
    source.next(make_state(mark=8))
    found = source.replay.steps
    expected = np.zeros(found["age"].shape, bool)
    for i in range(1, LENGTH + 1):
        expected[stream, start + i] = True
    np.testing.assert_array_equal(found["age"] == 9, expected)
    np.testing.assert_array_equal((found["memory"] == 9).all(-1), expected)
    assert not (found["age"] == 8).any()


def test_a_policy_that_keeps_nothing(make):
    source = make(policy=walk.FORGETFUL)
    for _ in range(3):
        batch = source.next(make_state())
    assert "memory" not in batch and batch["place"].shape == (BATCH, LENGTH, 1)


def test_it_resumes_from_its_cursor(make):
    whole, first = make("whole"), make("parts")
    for source in (whole, first):
        for _ in range(3):
            source.next(make_state())
    cursor = first.get_state()
    again = make("parts")
    again.set_state(cursor)
    assert again.get_state() == cursor
    rings = first.replay.steps
    for name, ring in again.replay.steps.items():
        np.testing.assert_array_equal(ring, rings[name])
    batch = again.next(make_state())
    assert again.report()["numbers"]["env_steps"] == 44
    # Environments begin anew; the windows drawn are those of the uninterrupted run.
    expected = whole.next(make_state())
    assert again.replay.steps["is_first"][:, first.rounds].all()
    old = whole.last_windows[:, 1] + LENGTH < first.rounds
    assert old.any()
    np.testing.assert_array_equal(again.last_windows, whole.last_windows)
    names = set(batch) - {"memory", "age"}
    assert_same({k: batch[k][old] for k in names}, {k: expected[k][old] for k in names})


def test_a_replay_that_is_gone_is_filled_again(make, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(collection.logging, "warning", lambda *args: said.append(args))
    first = make()
    for _ in range(3):
        first.next(make_state())
    cursor = first.get_state()
    shutil.rmtree(tmp_path / "replay")
    again = make()
    again.set_state(cursor)
    (_, text), *more = said
    assert not more and "lacks 38 of the last 38 steps; it is filled again by" in text
    batch = again.next(make_state())
    assert again.report()["numbers"]["env_steps"] == 38 + 26
    assert (again.last_windows[:, 1] >= 19).all() and batch["place"].any()
    third = make()
    third.set_state(again.get_state())
    assert "lacks 38 of the last 64 steps; the others are trained on" in said[-1][1]
    third.next(make_state())
    assert third.report()["numbers"]["env_steps"] == 38 + 26 + 6


def test_an_empty_replay_is_filled_once(make):
    calls = []

    def prefill(replay):
        calls.append(1)
        step = {k: np.zeros(x[:, 0].shape, x.dtype) for k, x in replay.steps.items()}
        for _ in range(30):
            replay.add(step)

    source = make(prefill=prefill)
    source.next(make_state()), source.next(make_state())
    assert calls == [1] and source.report()["numbers"]["env_steps"] == 12


def test_scores_are_those_of_recent_episodes(make):
    source = make()
    assert source.report()["said"] == "env steps 0  no episode has ended"
    for _ in range(6):
        source.next(make_state())
    numbers = source.report()["numbers"]
    ends = source.replay.steps["is_last"][:, : source.rounds]
    assert numbers["episodes"] == ends.sum() >= 8
    assert numbers["episode_steps"] == walk.STEPS + 1
    steps = numbers["env_steps"]
    last = f"{numbers['last_score']:.3g}"
    assert source.report()["said"] == f"env steps {steps}  last score {last}"
    starts = np.flatnonzero(source.replay.steps["is_first"][0, : source.rounds])
    sums = np.add.reduceat(
        source.replay.steps["reward"][:, : source.rounds], starts, axis=1
    )[:, : ends[0].sum()]
    np.testing.assert_allclose(numbers["score"], sums[:, -5:].mean(), rtol=1e-5)


def test_its_steps_are_a_data_set(make, tmp_path):
    source = make()
    source.next(make_state())
    source.get_state()
    records = chunks.ChunkWindows(str(tmp_path / "replay"), 4)
    assert len(records) == STREAMS * (source.rounds - 3)
    assert records.load(0)["place"].shape == (4, 1)
