"""Replay, compared with a plain list of steps: windows, kept arrays, files."""

import numpy as np
import pytest

from core.agents import replay as module
from core.agents.replay import Replay
from core.data.formats import chunks
from core.data.records import BadSample

SHAPES = {
    "place": ((2,), "float32"),
    "action": ((3,), "float32"),
    "reward": ((), "float32"),
    "is_first": ((), "bool"),
    "is_last": ((), "bool"),
    "is_terminal": ((), "bool"),
}
KEPT = {"memory": ((4,), "float16"), "code": ((2,), "uint8")}
STREAMS, LENGTH = 2, 4


def step(t):
    """Step t of all streams; the numbers of stream s are 1000 s + t."""
    mark = 1000 * np.arange(STREAMS) + t
    return {
        "place": np.stack([mark, -mark], -1).astype(np.float32),
        "action": np.repeat(mark[:, None], 3, 1).astype(np.float32),
        "reward": mark.astype(np.float32),
        "is_first": np.array([t % 7 == 0, t % 5 == 0]),
        "is_last": np.array([t % 7 == 6, False]),  # stream 1 is always cut short
        "is_terminal": np.zeros(STREAMS, bool),
        "memory": np.zeros((STREAMS, 4), np.float16),
        "code": np.zeros((STREAMS, 2), np.uint8),
    }


def make(folder, *, capacity=40, steps=0, kept=KEPT):
    size = {"streams": STREAMS, "capacity": capacity, "length": LENGTH}
    replay = Replay(folder, SHAPES, kept=kept, **size)
    for t in range(steps):
        replay.add(step(t))
    return replay


def test_windows_hold_the_steps_in_order(tmp_path):
    replay = make(tmp_path, steps=33)  # the rings hold 20 steps
    assert len(replay) == 40
    replay.fresh.clear()
    windows = replay.draw_windows(400, np.random.default_rng(0))
    assert set(windows[:, 0]) == {0, 1}
    assert set(windows[:, 1]) == set(range(13, 29))
    batch = replay.read(windows)
    t = windows[:, 1:] + 1 + np.arange(LENGTH)
    mark = 1000 * windows[:, :1] + t
    np.testing.assert_array_equal(batch["reward"], mark)
    np.testing.assert_array_equal(batch["place"][..., 1], -mark)
    np.testing.assert_array_equal(batch["action"][..., 0], mark - 1)
    first = np.where(windows[:, :1] == 0, t % 7, t % 5) == 0
    np.testing.assert_array_equal(batch["is_first"], first)
    # Within a window, the step before a first one is a last one.
    np.testing.assert_array_equal(
        batch["is_last"][:, :-1],
        np.where(windows[:, :1] == 0, t % 7 == 6, t % 5 == 4)[:, :-1],
    )
    assert batch["memory"].shape == (400, 4) and batch["code"].shape == (400, 2)


def test_windows_are_drawn_evenly(tmp_path):
    replay = make(tmp_path, steps=33)
    replay.fresh.clear()
    windows = replay.draw_windows(16_000, np.random.default_rng(0))
    _, counts = np.unique(windows[:, 0] * 1000 + windows[:, 1], return_counts=True)
    assert len(counts) == 32
    chi = (np.square(counts - 500) / 500).sum()
    assert chi < 62  # 31 degrees of freedom: above it once in a thousand


def test_new_steps_come_first_and_once(tmp_path):
    replay = make(tmp_path, steps=11)
    windows = replay.draw_windows(6, np.random.default_rng(0))
    assert windows[:4].tolist() == [[0, 0], [1, 0], [0, 5], [1, 5]]
    assert not replay.fresh
    for t in range(11, 60):
        replay.add(step(t))  # ten more windows each, of which the rings have lost six
    windows = replay.draw_windows(12, np.random.default_rng(0))
    assert windows[:8:2, 1].tolist() == [40, 45, 50, 55]


def test_kept_arrays_are_updated_unless_overwritten(tmp_path):
    replay = make(tmp_path, steps=20)
    windows = np.array([[0, 2], [1, 9]])
    for t in range(20, 26):
        replay.add(step(t))  # steps 0 to 5 are gone
    memory = np.arange(2 * LENGTH * 4).reshape(2, LENGTH, 4).astype(np.float16) + 1
    newer = {"memory": memory, "code": np.full((2, LENGTH, 2), 3, np.uint8)}
    replay.update_kept(windows, newer)
    np.testing.assert_array_equal(replay.steps["memory"][0, 6 % 20], memory[0, 3])
    np.testing.assert_array_equal(replay.steps["memory"][1, 10:14], memory[1])
    assert replay.steps["memory"][0].any(-1).sum() == 1  # steps 3 to 5 were left alone
    context = replay.read(np.array([[1, 10]]))
    np.testing.assert_array_equal(context["memory"][0], memory[1, 0])
    assert (context["code"] == 3).all()


def test_nothing_need_be_kept(tmp_path):
    replay = make(tmp_path, steps=9, kept={})
    assert set(replay.read(np.array([[0, 1]]))) == set(SHAPES)
    replay.save()
    again = make(tmp_path, kept={})
    again.load(9)
    assert not again.bad and not again.holes.any()
    other = make(tmp_path)
    other.load(9)
    assert {bad["reason"] for bad in other.bad} == {
        "'model/memory' is absent, not (4,)"
    }


def test_a_kept_array_may_not_replace_an_observation(tmp_path):
    with pytest.raises(ValueError, match="keeps 'place' beside each step, but the env"):
        make(tmp_path, kept={"place": ((2,), "float32")})


def test_files_name_kept_arrays_apart(tmp_path):
    """So that replays of earlier versions load, and other methods leave them out."""
    make(tmp_path, steps=9).save()
    steps = chunks.read_chunk(tmp_path, chunks.chunks_in(tmp_path)[0])
    assert set(steps) == {*SHAPES, "model/memory", "model/code"}
    assert steps["model/memory"].dtype == np.float16


def test_files_restore_the_rings(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    replay = make(tmp_path, steps=13)
    replay.save()
    for t in range(13, 30):
        replay.add(step(t))
    replay.save()
    names = [c.name for c in chunks.chunks_in(tmp_path)]
    assert names == [
        f"{s:06d}-{start:012d}-{n:06d}.npz"
        for s in range(2)
        for start, n in ((10, 6), (16, 8), (24, 6))  # 0 to 9 have left the rings
    ]
    again = make(tmp_path)
    again.load(30)
    assert again.added == 30 and not again.bad and not again.holes.any()
    for name, ring in replay.steps.items():
        np.testing.assert_array_equal(again.steps[name], ring)


def test_steps_after_the_checkpoint_are_collected_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    replay = make(tmp_path, steps=19)
    replay.save()
    again = make(tmp_path)
    again.load(12)
    assert {c.start + c.steps for c in chunks.chunks_in(tmp_path)} == {8, 12}
    for t in range(112, 119):
        again.add(step(t))
    again.save()
    third = make(tmp_path)
    third.load(19)
    expected = [*range(12), *range(112, 119)]
    np.testing.assert_array_equal(third.steps["reward"][0, :19], expected)


def test_a_damaged_file_is_named_and_its_steps_are_avoided(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    make(tmp_path, steps=20).save()
    paths = sorted(tmp_path.glob("000001-*.npz"))
    paths[1].write_bytes(paths[1].read_bytes()[:50])
    again = make(tmp_path)
    again.load(20)
    assert [bad["name"] for bad in again.bad] == [str(paths[1])]
    windows = again.draw_windows(200, np.random.default_rng(0))
    mine = windows[windows[:, 0] == 1, 1]
    assert set(mine) == {0, 1, 2, 3} and set(windows[:, 1]) == set(range(16))


def test_a_small_capacity_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"replay.capacity 10 gives 2 .* use 20 or more"
    ):
        make(tmp_path, capacity=10)
    assert [make(tmp_path, steps=n).windows for n in (4, 5, 9)] == [0, 2, 10]


def test_windows_are_counted_as_the_public_code_counts_them(tmp_path):
    """A window of 64 steps and one before them, from every step: 1024 are enough."""
    for streams, steps in ((16, 2048), (1, 1088)):
        size = {"streams": streams, "capacity": 5000, "length": 64}
        replay = Replay(tmp_path, SHAPES, kept={}, **size)
        replay.added = steps // streams
        assert replay.windows == 1024


def test_steps_after_lost_ones_are_drawn_and_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    make(tmp_path, steps=13).save()
    for path in tmp_path.glob("*.npz"):
        path.unlink()
    again = make(tmp_path)
    again.load(13)
    assert again.windows == 0 and again.holes.sum() == 26
    with pytest.raises(ValueError, match="no 5 steps in a row"):
        again.draw_windows(1, np.random.default_rng(0))
    for t in range(13, 19):
        again.add(step(t))
    assert again.windows == 4 and again.holed
    windows = again.draw_windows(50, np.random.default_rng(0))
    assert set(map(tuple, windows.tolist())) == {
        (s, t) for s in (0, 1) for t in (13, 14)
    }
    again.save()
    files = [(c.start, c.steps) for c in chunks.chunks_in(tmp_path) if c.stream == 0]
    assert files == [(13, 3), (16, 3)]
    third = make(tmp_path)
    third.load(19)
    assert third.windows == 4
    for t in range(19, 33):
        third.add(step(t))
    assert third.windows == 32 and not third.holed  # the lost steps have left the rings
    third.save()
    fourth = make(tmp_path)
    fourth.load(33)
    assert not fourth.holes.any()


def test_a_replay_that_does_not_fit_in_memory_says_what_does(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "memory_limit", lambda: 10**9)
    with pytest.raises(
        ValueError,
        match=r"needs 3.7 GB of memory for 100,000,000 steps of 37 bytes, .* has 1.0 GB; "
        r"use --config.replay.capacity=21000000 or less",
    ):
        make(tmp_path, capacity=10**8)
    make(tmp_path, capacity=21_000_000)
    # What the run will not take is not counted, however large the ring.
    size = {"streams": 2, "capacity": 10**9, "length": LENGTH}
    large = Replay(tmp_path, SHAPES, kept=KEPT, most_steps=1000, **size)
    assert large.steps["place"].nbytes > 10**9
    with pytest.raises(
        ValueError, match="needs .* GB of memory for 1,000,000,000,000,000"
    ):
        Replay(
            tmp_path, SHAPES, kept=KEPT, most_steps=1000, **size | {"capacity": 10**15}
        )


def test_windows_of_a_folder_span_files_but_no_gaps(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    make(tmp_path, capacity=80, steps=30).save()
    records = chunks.ChunkWindows(str(tmp_path), 5)
    assert len(records) == 2 * 26
    item = records.load(26 + 6)
    np.testing.assert_array_equal(item["reward"], 1000 + np.arange(6, 11))
    np.testing.assert_array_equal(item["action"][:, 0], [0, *range(1006, 1010)])
    assert item["is_first"].tolist() == [True, False, False, False, True]
    (tmp_path / "000001-000000000008-000008.npz").unlink()
    records = chunks.ChunkWindows(str(tmp_path), 5)
    assert len(records) == 26 + 4 + 10
    np.testing.assert_array_equal(records.load(30)["reward"], 1000 + np.arange(16, 21))


def test_no_training_window_has_validation_steps(tmp_path):
    make(tmp_path, capacity=200, steps=90).save()

    def steps_of(split, length, apart=0):
        records = chunks.ChunkWindows(str(tmp_path), length, split, apart)
        windows = [records.load(i)["reward"] for i in range(len(records))]
        return len(windows), set(np.concatenate(windows).tolist())

    (n, train), (m, held) = steps_of("train", 5), steps_of("validation", 3)
    every = [*range(90), *range(1000, 1090)]
    assert held == set(every[-9:]) and train == set(every[:-9])
    assert (n, m) == (86 + 77, 7)
    # More than a stream is held out: windows still span no gap.
    (n, train), (m, held) = steps_of("train", 5, 100), steps_of("validation", 5, 100)
    assert held == set(every[-100:]) and train == set(every[:-100])
    assert (n, m) == (76, 6 + 86)
    with pytest.raises(ValueError, match="has no 10 steps in a row among the last 9"):
        steps_of("validation", 10)


def test_bad_files_are_bad_samples(tmp_path):
    def chunk(**changes):
        steps = {k: np.stack([step(t)[k][0] for t in range(6)]) for k in SHAPES}
        where = chunks.Chunk(0, 0, 6)
        chunks.write_chunk(
            tmp_path,
            where,
            {k: v for k, v in (steps | changes).items() if v is not None},
        )
        chunks.load_chunk.cache_clear()
        with pytest.raises(BadSample) as error:
            chunks.ChunkWindows(str(tmp_path), 5).load(0)
        return str(error.value)

    assert chunk(reward=None) == "has no 'reward'"
    assert chunk(reward=np.array([0, 0, np.nan, 0, np.nan, 0])) == (
        "'reward' is not finite at step 2"
    )
    assert chunk(place=np.zeros((5, 2))) == "'place' has 5 steps, not 6"
    assert "cannot be read" in chunk(place=np.array([None] * 6))  # a pickle


def test_folders_without_trajectories(tmp_path):
    with pytest.raises(ValueError, match="is not a folder of trajectories"):
        chunks.ChunkWindows(str(tmp_path / "none"), 5)
    with pytest.raises(ValueError, match="has no 5 steps in a row; expected files"):
        chunks.ChunkWindows(str(tmp_path), 5)
