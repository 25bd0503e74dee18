"""Random data sets of RLDS, Minari and prepared pieces: what arrives is what was written.

Every step has a number, which is in all of its arrays and in the pixels of its pictures.
Windows of random lengths are compared with a plain concatenation of the episodes. A case is
a window; FUZZ_SEED=N draws other ones.
"""

import os

import numpy as np
import pytest
from drawn_tables import draw_minari, draw_rlds

from core.data import source_names
from core.prepare import run
from core.prepare.trajectory_pieces import TrajectoryPlan

SEED = int(os.environ.get("FUZZ_SEED", 0))
# Data sets of each kind, and windows of each: 306 cases.
CASES = {"array_record": (10, 6), "tfrecord": (20, 6), "minari": (15, 6)}
CASES["prepared"] = (3, 12)


def check_windows(place, stream, rng, case, count):
    """Compare random windows of a data set with the stream."""
    for _ in range(count):
        length, seed = int(rng.integers(1, 25)), int(rng.integers(1 << 30))
        windows = source_names.trajectories(
            place, "" if case[0] != "prepared" else "train", steps=length, apart=0,
            world=None,
        )  # fmt: skip
        index = int(rng.integers(len(windows)))
        item = windows.load(index, np.random.default_rng(seed))
        message = f"FUZZ_SEED={SEED} case={case} {length=} {index=} {seed=}"
        assert set(item) == set(stream), message
        [start] = np.flatnonzero(stream["state"][:, 0] == item["state"][0, 0])
        rows = (start + np.arange(length)) % len(stream["state"])
        expected = {name: x[rows] for name, x in stream.items()}
        before = np.zeros_like(expected["action"][:1])
        expected["action"] = np.concatenate([before, expected["action"][:-1]])
        expected["is_first"] = expected["is_first"].copy()
        expected["is_first"][0] = True
        follows = np.append(expected["is_first"][1:], False)
        expected["is_last"] = expected["is_last"] | follows
        for name, x in expected.items():
            words = f"{name}: {message}"
            assert item[name].dtype == x.dtype or x.dtype.kind == "U", words
            np.testing.assert_array_equal(item[name], x, err_msg=words)


def prepare(place, folder, rng):
    """The path of a prepared set of random pieces."""
    plan = TrajectoryPlan(place, held=0, piece=int(rng.integers(1, 7)))
    options = {"workers": 1, "shard_mb": 64, "say": id}
    run.prepare(run.TRAJECTORIES, plan, str(folder / "ready"), **options)
    return str(folder / "ready")


@pytest.mark.parametrize("kind", CASES)
def test_windows_are_those_of_the_written_steps(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sets, windows = CASES[kind]
    for number in range(sets):
        rng = np.random.default_rng([SEED, list(CASES).index(kind), number])
        folder = tmp_path / str(number)
        folder.mkdir()
        as_minari = kind == "minari" or (kind == "prepared" and number % 2)
        if as_minari:
            pytest.importorskip("minari")
            monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
            place, stream = draw_minari(rng, folder)
        else:
            form = "tfrecord" if kind == "prepared" else kind
            place, stream = draw_rlds(rng, folder, form)
        if kind == "prepared":
            place = prepare(place, folder, rng)
        check_windows(place, stream, rng, (kind, number), windows)
