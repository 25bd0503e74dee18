"""Labelled videos, their views and features, and heads on them, from files to the table."""

import json

import clocks
import jax.numpy as jnp
import numpy as np
import pytest

from core.base.waiting import Stopped
from core.data.labelled import read_labelled
from core.data.views import clip_starts, read_views, view_boxes
from core.evals import fit
from core.evals.classification import Options, selection
from core.evals.extract import extract
from core.evals.frozen import evaluate_frozen
from core.method import Frozen

OPTIONS = Options(
    batch=4,
    steps=60,
    head_batch=16,
    grid=fit.Grid((3e-2, 1e-6), (0.01,), (0, 1)),
    k=3,
    head_gigabytes=1e-5,
)


def encode(weight, video):
    """Tokens [B, T, 3]: a direction that turns with a frame's brightness, or zeros."""
    bright = video.astype(jnp.float32).mean((2, 3, 4)) / 64 - 2
    return weight * jnp.stack([bright, jnp.ones_like(bright), 0 * bright], -1)


FROZEN = Frozen(
    weights={
        "bright": lambda state: np.float32(state),
        "blind": lambda state: np.float32(0),
    },
    encode=encode,
    frames=2,
    fps=10.0,
    size=32,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten videos per class: dark, middle, light."""
    place = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for name, gray in (("dark", 40), ("light", 200), ("middle", 120)):
        (place / name).mkdir()
        for i in range(10):
            image = np.full((32, 40, 3), gray + rng.integers(-20, 20), np.uint8)
            clocks.write(place / name / f"{i}.mp4", [image] * 6, np.arange(6) / 10)
    return place


def test_class_folders_are_split_within_each_class(folder):
    train, validation = read_labelled(str(folder))
    assert train.classes == validation.classes == ("dark", "light", "middle")
    assert np.bincount(train.labels).tolist() == [8, 8, 8]
    assert np.bincount(validation.labels).tolist() == [2, 2, 2]
    assert not set(train.paths) & set(validation.paths)
    for part in (train, validation):
        for path, label in zip(part.paths, part.labels, strict=True):
            assert path.startswith(part.classes[label])
    assert read_labelled(str(folder))[1].paths == validation.paths


def test_folders_and_lists_that_have_a_split(folder, tmp_path):
    (tmp_path / "train").symlink_to(folder)
    (tmp_path / "val" / "light").mkdir(parents=True)
    (tmp_path / "val" / "light" / "x.mp4").symlink_to(folder / "light" / "0.mp4")
    train, validation = read_labelled(str(tmp_path))
    assert len(train.paths) == 30 and validation.paths == ("light/x.mp4",)
    assert validation.labels.tolist() == [1]
    lists = []
    for name, rows in (
        ("a", ["dark/0.mp4,0", "light/1.mp4,1"]),
        ("b", ["light/2.mp4,1"]),
    ):
        lists.append(folder / f"{name}.csv")
        lists[-1].write_text("\n".join(rows))
    train, validation = read_labelled(",".join(map(str, lists)))
    assert train.labels.tolist() == [0, 1] and validation.labels.tolist() == [1]


def test_what_cannot_be_a_labelled_set_is_named(folder, tmp_path):
    def refusal(place):
        with pytest.raises(ValueError) as caught:
            read_labelled(str(place))
        (line,) = str(caught.value).splitlines()
        return line

    clock = clocks.write_clock(tmp_path / "one.mp4", np.arange(3) / 10)
    assert "one.mp4 lies in no class folder" in refusal(tmp_path)
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "x.mp4").symlink_to(clock)
    text = refusal(tmp_path / "set")
    assert "class a has one video, a/x.mp4; expected two or more" in text
    table = folder / "list.csv"
    table.write_text("dark/0.mp4,0\ndark/missing.mp4,1\n")
    assert (
        f"list.csv names dark/missing.mp4, which does not exist below {folder}"
        in refusal(table)
    )
    table.write_text("dark/0.mp4\ndark/1.mp4\n")
    assert "has no labels" in refusal(table)
    table.write_text("dark/0.mp4,-1\ndark/1.mp4,1\n")
    assert "dark/0.mp4 has the label -1, expected >= 0" in refusal(table)
    table.write_text("dark/0.mp4,0\n")
    other = folder / "other.csv"
    other.write_text("light/0.mp4,3\n")
    assert "class 3 has validation videos, none to train on" in refusal(
        f"{table},{other}"
    )


def test_clips_and_views_are_evenly_spaced(tmp_path):
    assert clip_starts(10.0, span=2.0, clips=1).tolist() == [4.0]
    assert clip_starts(10.0, span=2.0, clips=2).tolist() == [2.0, 6.0]
    assert clip_starts(1.0, span=2.0, clips=3).tolist() == [0, 0, 0]
    lefts = [box.left for box in view_boxes(100, 300, size=64, views=3)]
    assert lefts == [0, 100, 200]
    (one,) = view_boxes(256, 341, size=224, views=1)
    assert one.height == one.width == 224 and (one.top, one.left) == (16, 58)
    path = clocks.write_clock(tmp_path / "x.mp4", np.arange(30) / 10)
    shown = read_views(path, frames=3, fps=10, size=32, clips=2, views=3)
    assert shown.shape == (3, 2, 3, 32, 32, 3)
    # 3 s of video leave 2.7 s: clips begin at a quarter and three quarters of them.
    starts = [clocks.read_clock(shown[1, i]).tolist() for i in range(2)]
    assert starts == [[6, 7, 8], [20, 21, 22]]
    for view in (0, 2):
        np.testing.assert_array_equal(shown[view], shown[1])  # all gray


def test_features_go_on_where_they_stopped(tmp_path):
    calls = []

    def load(row):
        calls.append(row)
        if row == 3:
            raise OSError("rotten")
        return np.full((1, 2, 1, 4, 4, 3), row, np.uint8)

    def encode(clips):
        assert len(clips) == 4
        return clips.mean((2, 3, 4)).reshape(4, 1, 1)

    options = {"batch": 4, "workers": 2}
    asked = iter([False, True])
    found = extract(
        tmp_path, encode, load, 9, stopping=lambda: next(asked, True), **options
    )
    assert found is None and set(calls) > {0, 1, 3}
    calls.clear()
    found = extract(tmp_path, encode, load, 9, **options)
    assert 0 not in calls and 8 in calls
    assert found.bad == {3: "OSError: rotten"}
    assert found.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert found.tokens.shape == (9, 1, 2, 1)
    assert found.tokens[found.rows, 0, :, 0].tolist() == [[r, r] for r in found.rows]
    calls.clear()
    assert extract(tmp_path, encode, load, 9, **options).bad == found.bad and not calls


def test_selection_takes_a_fifth_of_each_class():
    labels = np.asarray([0] * 10 + [1] * 5)
    fitted, held = selection(labels)
    assert labels[held].tolist() == [0, 0, 1] and len(fitted) == 12
    fitted, held = selection(np.asarray([0, 1, 1]))
    np.testing.assert_array_equal(fitted, held)


def test_heads_read_what_features_hold(folder, tmp_path):
    said = []
    report = evaluate_frozen(
        FROZEN,
        1.0,
        read_labelled(str(folder)),
        tmp_path,
        about={"step": 7},
        heads=("knn", "linear", "attentive1"),
        options=OPTIONS,
        say=said.append,
    )
    bright, blind = (report["encoders"][name] for name in ("bright", "blind"))
    for head in ("knn", "linear", "attentive1"):
        low, high = bright[head]["interval"]
        assert bright[head]["accuracy"] >= 0.99 and low <= high <= 1, head
        assert blind[head]["accuracy"] < 0.7
    # Settings are chosen on training videos: the rate that learns, not the idle one.
    assert bright["linear"]["rate"] == 3e-2 and len(bright["linear"]["seeds"]) == 2
    low, high = bright["linear"]["spread"]
    assert low < high == bright["linear"]["best"]
    assert json.loads((tmp_path / "frozen.json").read_text()) == json.loads(
        json.dumps(report)
    )
    assert (
        "| bright | attentive1 | 1.000 | 1.000 to 1.000 |"
        in (tmp_path / "frozen.md").read_text()
    )
    kept = sorted((tmp_path / "features").glob("*/tokens.npy"))
    assert len(kept) == 4
    stamps = [path.stat().st_mtime_ns for path in kept]
    with pytest.raises(Stopped):
        evaluate_frozen(
            FROZEN, 1.0, read_labelled(str(folder)), tmp_path, about={}, heads=("linear",),
            options=OPTIONS, stopping=lambda: True, say=said.append,
        )  # fmt: skip
    assert [path.stat().st_mtime_ns for path in kept] == stamps


def test_unknown_names_are_refused(folder, tmp_path):
    data = read_labelled(str(folder))
    for names in ({"heads": ("knnn",)}, {"encoders": ("brigt",)}):
        with pytest.raises(ValueError, match=r"did you mean '(knn|bright)'"):
            evaluate_frozen(
                FROZEN, 1.0, data, tmp_path, about={}, options=OPTIONS, **names
            )
