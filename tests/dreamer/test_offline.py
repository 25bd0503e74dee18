"""A world model in the train loop, on trajectories: resuming, data, evaluation."""

import json

import jax
import numpy as np
import pytest
import tensorflow_datasets
from small import drawn_state, share_programs, use_one_device
from small import dream as small
from tfds_files import write_version

from core import train
from core.agents.replay import Replay
from core.agents.returns import replay_returns
from core.agents.spaces import Space, sorted_spaces
from core.config import load_method
from core.data.episodes.steps import FLAGS
from core.data.formats import chunks
from core.data.records import BadSample
from core.method import Watch
from core.parallel.layouts import unbox
from core.prepare import run
from core.prepare.trajectory_pieces import TrajectoryPlan, load_prepared_steps
from core.section import Section
from dreamer import data, evals, offline
from dreamer.behavior import GAMMA

ONE = jax.devices()[:1]


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        share_programs(patch)
        yield


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_resuming_within_a_window_is_exact(tmp_path):
    config = small(steps=5, behavior="actor", imagination__horizon=3)
    whole = train.fit(config, tmp_path / "whole")
    config.steps = 3
    train.fit(config, tmp_path / "parts")
    config.steps = 5
    parts = train.fit(config, tmp_path / "parts", allow_config_change=True)
    assert_same(whole, parts)
    texts = [
        (tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")
    ]
    lines = [[json.loads(line) for line in text.splitlines()] for text in texts]
    lines = [
        [{k: v for k, v in x.items() if "time/" not in k} for x in y] for y in lines
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 5


def test_pieces_of_a_window_are_consecutive():
    config = small()
    method = load_method(config)
    source = method.source("train", (0, 1))
    first, second, third = (source.next() for _ in range(3))
    assert not first["goes_on"].any() and second["goes_on"].all()
    assert not third["goes_on"].any()
    item = data.make_records(
        "train", seed=0, steps=8, apart=8, **{k: config.data[k] for k in LOOK}
    ).load(3)
    np.testing.assert_array_equal(first["image"][3], item["image"][:4])
    np.testing.assert_array_equal(second["image"][3], item["image"][4:])
    np.testing.assert_array_equal(second["action"][3], item["action"][4:])
    np.testing.assert_array_equal(first["is_first"][0], [True, False, False, False])
    source.close()


LOOK = ("source", "size", "level", "bodies", "fps")


def test_predictions_are_compared_with_the_last_frame():
    method = load_method(small())
    found = method.evals["dream"](drawn_state(method), Watch())
    assert {"dream/position_1", "still/position_1", "dream/image_1"} <= found.keys()
    # Rows of truth, dream and difference for each of four clips, eight frames wide.
    assert found["dream_image"].shape == (4 * 3 * 52, 8 * 52, 3)
    assert found["film_image"].shape == (8, 3 * 52, 4 * 52, 3)
    # One frame of one clip is the same in both.
    row, column, t = 1, 2, 5
    cell = found["dream_image"][(3 * column + row) * 52 :][:52, t * 52 :][:, :52]
    np.testing.assert_array_equal(
        found["film_image"][t, row * 52 :][:52, column * 52 :][:, :52], cell
    )
    world = data.make_world(
        "validation", steps=8, seed=0, size=48, level="plain", bodies=2, fps=8.0
    )
    places = np.linspace(0, 2**20 - 1, 4).astype(int)
    place = np.stack([world.load(i)["position"] for i in places])
    gap = np.sqrt(np.square(place[:, 5] - place[:, 4]).mean())
    np.testing.assert_allclose(found["still/position_1"], gap, rtol=1e-6)


def test_predictions_are_compared_until_the_episode_ends():
    true = np.zeros((3, 6, 2), np.float32)
    true[:, 1] = 1  # the last observed step
    predicted = np.full_like(true, 3)
    predicted[0] = 5
    same = np.ones((3, 4), bool)
    same[0, 1:] = False  # the first episode ends after one predicted step,
    same[1:, 2:] = False  # the others after two
    found = evals.errors("x", predicted, true, same)
    expected = {
        "dream/x_1": (25 + 9 + 9) / 3,
        "dream/x_2": 9,
        "still/x_1": 1,
        "still/x_2": 1,
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_positions_are_compared_with_the_last_observed_ones():
    true = np.zeros((2, 8, 2))
    true[:, 3:, 0] = np.arange(5)  # moves after three observed steps
    read = true + np.array([9, 9, 9, 2, 2, 1, 1, 4])[:, None]
    found = evals.positions(read, true, 3)
    assert found["dream/position_1"] == 2 and found["dream/position_2"] == 2
    assert found["still/position_5"] == pytest.approx(8**0.5)
    # Errors: 0, 0.7, 1.4, 2.1 and 2.8 of the last frame, 2, 2, 1, 1 and 4 predicted.
    assert found["steps_dreamt_better"] == 2


def test_a_readout_combines_several_latents():
    """One of 4 x 4 places by two latents of four classes, their product's sign by both."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, (40, 25, 2))
    x = np.eye(4, dtype=np.float32)[ids].reshape(40, 25, 8)
    sides = ids / 4 - 0.375
    y = np.concatenate([sides, np.sign(sides[..., :1] * sides[..., 1:])], -1)
    read = evals.fit_reader(x[:20], y[:20].astype(np.float32), steps=400)
    np.testing.assert_allclose(read(x[20:]), y[20:], atol=0.05)


def test_recorded_trajectories_train_and_bad_ones_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        steps = {
            "height": rng.standard_normal((9, 2)).astype(np.float32),
            "action": rng.standard_normal((9, 3)).astype(np.float32),
            "reward": rng.standard_normal(9).astype(np.float32),
            **{k: np.zeros(9, bool) for k in ("is_first", "is_last", "is_terminal")},
        }
        if i == 5:
            steps["reward"][4] = np.inf
        if i == 7:
            steps["height"] = steps["height"][:, :1]
        if i == 8:
            steps["action"] = steps["action"][:, :2]
        chunks.write_chunk(tmp_path, chunks.Chunk(i, 0, 9), steps)
    changes = {"data__source": str(tmp_path), "data__max_bad_share": 0.9}
    config = small(**changes, steps=6, behavior="actor", imagination__horizon=3)
    train.fit(config, tmp_path / "run")
    lines = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    reasons = {json.loads(line)["reason"] for line in lines}
    assert reasons == {
        "'reward' is not finite at step 4",
        "'height' is (1,), not (2,) as elsewhere",
        "'action' is (2,), not (3,) as elsewhere",
    }


def test_recorded_trajectories_are_mixed_by_weight(tmp_path):
    for name, height in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        for i in range(30):
            steps = {flag: np.zeros(9, bool) for flag in FLAGS}
            steps |= {"height": np.full((9, 2), height, np.float32)}
            steps |= {"reward": np.zeros(9), "action": np.zeros((9, 3), np.float32)}
            chunks.write_chunk(tmp_path / name, chunks.Chunk(i, 0, 9), steps)
    mix = f"3*{tmp_path / 'a'} + {tmp_path / 'b'}"
    method = load_method(small(data__source=mix, batch=8))
    source = method.source("train", (0, 1), tmp_path)
    heights = np.concatenate([source.next()["height"][:, 0, 0] for _ in range(4)])
    source.close()
    assert (heights == 1).sum() == 24 and (heights == 2).sum() == 8
    # Limits of the embedded world, such as the size, do not apply to recordings.
    look = {k: small().data[k] for k in LOOK} | {"source": mix, "size": 4}
    assert len(data.make_records("train", seed=0, steps=1, apart=1, **look)) > 500


def test_unreadable_windows_are_left_out_of_the_evaluation(tmp_path):
    def write(i, **changes):
        steps = {name: np.zeros(9, bool) for name in FLAGS}
        steps |= {
            "height": np.full((9, 2), i - 152.0, np.float32),
            "reward": np.zeros(9),
        }
        steps |= {"action": np.zeros((9, 3), np.float32)} | changes
        chunks.write_chunk(tmp_path, chunks.Chunk(i, 0, 9), steps)

    for i in range(158):
        write(i)
    write(158, height=np.zeros((9, 1), np.float32))
    write(159, reward=np.full(9, np.nan))
    # A twentieth of the steps are those of eight chunks, each with two windows.
    fields = {"data__source": str(tmp_path), "dream__clips": 16}
    method = load_method(small(**fields))
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), unbox(shapes))
    found = method.evals["dream"](state, Watch())
    # Zero weights predict zero, and nothing moves: the mean of 0, 1, 4, 9, 16 and 25.
    np.testing.assert_allclose(found["dream/height_1"], 55 / 6, rtol=1e-5)
    assert found["still/height_1"] == 0


def test_the_config_stays_as_it_is():
    config = small(dtype="float32")
    before = config.to_json()
    offline.make(Section(config.to_dict()))
    assert config.to_json() == before


def test_targets_do_not_cross_a_cut_episode(tmp_path):
    """An episode cut by a reset, inside a file and between two: read offline from files and
    from a prepared set, targets are those of the online replay, and of a plain loop.
    """
    n, length, cuts = 32, 8, [0, 6, 16, 23]  # files of 16 steps
    at = np.arange(n)
    episode = np.searchsorted(cuts, at, side="right") - 1
    steps = {
        "place": at[:, None].astype(np.float32),
        "action": np.ones((n, 2), np.float32),
        "reward": np.float32([0, 5, 0, 3])[episode],
        "is_first": np.isin(at, cuts),
        "is_last": at == n - 1,
        "is_terminal": at == n - 1,
    }
    folder = tmp_path / "replay"
    folder.mkdir()
    for start in (0, 16):
        part = {name: x[start : start + 16] for name, x in steps.items()}
        chunks.write_chunk(folder, chunks.Chunk(0, start, 16), part)

    shapes = {name: (x.shape[1:], x.dtype.name) for name, x in steps.items()}
    replay = Replay(folder, shapes, kept={}, streams=1, capacity=64, length=length)
    replay.load(n)
    starts = np.arange(n - length)  # the context step of each
    batch = replay.read(np.stack([0 * starts, starts], 1))
    online = {int(x[0, 0]): i for i, x in enumerate(batch["place"])}

    plan = TrajectoryPlan(str(folder), held=0, piece=5)
    options = {"workers": 1, "shard_mb": 64, "say": id}
    run.prepare(run.TRAJECTORIES, plan, str(tmp_path / "ready"), **options)

    def targets(batch):
        lead = (batch[k].T for k in ("reward", "is_last", "is_terminal"))
        zero = np.zeros(batch["reward"].T.shape, np.float32)
        found = replay_returns(*lead, zero, lam=0.95, gamma=GAMMA)
        return np.where(batch["is_last"][:, :-1], 0, found.T)

    expected = np.zeros((len(starts), length - 1))
    for i, first in enumerate(batch["place"][:, 0, 0].astype(int)):
        future = 0.0
        for t in reversed(range(first, first + length - 1)):
            ends = episode[t] != episode[t + 1]
            future = 0.95 * future * (t + 2 < n and episode[t + 1] == episode[t + 2])
            future = 0.0 if ends else steps["reward"][t + 1] + GAMMA * future
            expected[i, t - first] = future
    np.testing.assert_allclose(targets(batch), expected, rtol=1e-5)
    assert (expected[:, 0] == 0).sum() == 13 and expected.max() > 20

    for source, count in ((folder, n - length + 1), (tmp_path / "ready", 40)):
        look = {k: small().data[k] for k in LOOK} | {"source": str(source)}
        records = data.make_records("", seed=0, steps=length, apart=0, **look)
        records = data.shaped(records, sorted_spaces(data.spaces_of(records)[0]), 2)
        rng, windows = np.random.default_rng(0), {}
        for i in range(count):
            window = records.load(i % len(records), rng)
            first = int(window["place"][0, 0])
            if first in online and window["place"][-1, 0] == first + length - 1:
                windows[first] = window
        assert len(windows) > 15
        offline = {k: np.stack([x[k] for x in windows.values()]) for k in window}
        same = [online[first] for first in windows]
        np.testing.assert_array_equal(offline["is_last"], batch["is_last"][same])
        np.testing.assert_allclose(targets(offline), expected[same], rtol=1e-5)


def test_spaces_are_those_of_the_records(tmp_path):
    world = data.make_records(
        "train", seed=0, steps=8, apart=8, **{k: small().data[k] for k in LOOK}
    )
    spaces, actions = data.spaces_of(world)
    assert spaces == {"image": Space((48, 48, 3), "uint8")}
    assert actions == {"action": Space((2,))}


def test_recorded_choices_stay_choices(tmp_path):
    """One-hot vectors of a replay, with what its folder says of them and without."""
    rng = np.random.default_rng(0)
    steps = {name: np.zeros(12, bool) for name in FLAGS}
    steps |= {"reward": np.zeros(12, np.float32), "x": np.zeros((12, 1), np.float32)}
    steps["is_last"][5] = steps["is_first"][6] = True
    steps["action"] = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 12)]
    steps["action"][5] = 0

    def found(**changes):
        chunks.load_chunk.cache_clear()
        chunks.write_chunk(tmp_path, chunks.Chunk(0, 0, 12), steps | changes)
        return data.spaces_of(chunks.ChunkWindows(str(tmp_path), 8))[1]

    assert found() == {"action": Space((), "int32", 3)}
    assert found(action=steps["action"] * 0.5) == {"action": Space((3,))}
    about = {"action": [{"classes": 2}, {"agent": 1}]}
    (tmp_path / chunks.ABOUT).write_text(json.dumps(about))
    kinds = {"action_000": Space((), "int32", 2), "action_001": Space((1,))}
    assert found() == kinds


def test_choices_of_other_data_sets_stay_choices(tmp_path):
    """Direct and prepared; with reals of the same width they are not mixed, nor summed."""
    features = tensorflow_datasets.features
    real = features.Tensor(shape=(3,), dtype=np.float32)
    places = {}
    for name, kind in (("turn", features.ClassLabel(num_classes=3)), ("go", real)):
        step = {"observation": {"x": real, "timestamp": np.float64}, "action": kind}
        rows = [
            {"observation": {"x": np.ones(3, np.float32), "timestamp": 0.1 * t}}
            | {"action": 1 if name == "turn" else np.ones(3, np.float32)}
            for t in range(9)
        ]
        places[name] = write_version(tmp_path / name / "1.0.0", step, [rows] * 3)
    turn, go = places.values()
    options = {"workers": 1, "shard_mb": 64, "say": id}
    plan = TrajectoryPlan(turn, held=0, rate=5)
    run.prepare(run.TRAJECTORIES, plan, str(tmp_path / "ready"), **options)
    look = {k: small().data[k] for k in LOOK}

    def actions_of(source):
        look["source"] = str(source)
        records = data.make_records("train", seed=0, steps=4, apart=0, **look)
        return data.spaces_of(records)[1]

    choice = {"action": Space((), "int32", 3)}
    assert actions_of(turn) == actions_of(tmp_path / "ready") == choice
    assert actions_of(go) == {"action": Space((3,))}
    with pytest.raises(
        ValueError, match="actions are a choice of 3 in .* but 3 reals in"
    ):
        actions_of(f"{turn} + {go}")
    plan = TrajectoryPlan(turn, rate=5, actions="sum")
    with pytest.raises(BadSample, match="has discrete actions, which have no sum; use"):
        load_prepared_steps(plan, plan.recordings(), 0)
