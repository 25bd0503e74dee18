"""Labelled videos, their views and features, and heads on them, from files to the table."""

import csv
import functools
import json
import types

import clocks
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets
import tfds_files

from core.base.pictures import encode_png
from core.base.waiting import Stopped
from core.data.labelled import read_labelled
from core.data.records import BadSample
from core.data.views import clip_starts, read_views, view_boxes
from core.evals import fit
from core.evals.classification import Options, selection
from core.evals.evaluate import check_results_folder
from core.evals.extract import extract
from core.evals.frozen import evaluate_frozen
from core.evals.predictions import accuracy, confusion, top_of
from core.evals.published import match_classes
from core.method import Classifier, Frozen, Watch
from core.runs.restore import Opened

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
        f"list.csv names 1 of 2 videos that do not exist below {folder}: dark/missing.mp4"
        in refusal(table)
    )
    table.write_text("dark/0.mp4,0\ndark/0.mp4,1\n")
    assert "dark/0.mp4 has the labels 0 and 1; expected one" in refusal(table)
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
        watch=Watch(said.append),
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
        "| bright | attentive1 | 1.000 | 1.000 to 1.000 | - |"
        in (tmp_path / "frozen.md").read_text()
    )
    with open(tmp_path / "predictions" / "bright_linear.csv") as file:
        rows = list(csv.DictReader(file))
    assert (
        sorted(row["label"] for row in rows)
        == ["dark"] * 2 + ["light"] * 2 + ["middle"] * 2
    )
    for row in rows:
        assert row["path"].startswith(row["label"]) and row["class1"] == row["label"]
        chances = [float(row[f"probability{i}"]) for i in (1, 2, 3)]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1, abs=2e-4)
    assert bright["linear"]["per_class"] == {"dark": 1, "light": 1, "middle": 1}
    kept = sorted((tmp_path / "features").glob("*/tokens.npy"))
    assert len(kept) == 4
    stamps = [path.stat().st_mtime_ns for path in kept]
    with pytest.raises(Stopped):
        evaluate_frozen(
            FROZEN, 1.0, read_labelled(str(folder)), tmp_path, about={}, heads=("linear",),
            options=OPTIONS, watch=Watch(said.append, lambda: True),
        )  # fmt: skip
    assert [path.stat().st_mtime_ns for path in kept] == stamps


def table_of(place, rows, header="path,label"):
    place.write_text("\n".join([header, *rows]) + "\n")
    return str(place)


def test_tables_have_names_and_splits(folder):
    rows = [f"dark/{i}.mp4,night,train" for i in (0, 1)] + ["light/0.mp4,day,train"]
    rows += ["dark/2.mp4,night,val", "dark/2.mp4,night,val"]  # one video, given twice
    place = folder / "table.csv"
    train, validation = read_labelled(table_of(place, rows, "path,label,split"))
    assert train.classes == validation.classes == ("day", "night")
    assert train.labels.tolist() == [1, 1, 0]
    assert validation.paths == ("dark/2.mp4",) and validation.labels.tolist() == [1]
    columns = zip(*(row.split(",") for row in rows), strict=True)
    columns = dict(zip(("path", "label", "split"), map(list, columns), strict=True))
    pq.write_table(pyarrow.table(columns), folder / "table.parquet")
    for ours, theirs in zip(read_labelled(str(folder / "table.parquet")), (train, validation),
                            strict=True):  # fmt: skip
        assert ours.paths == theirs.paths and ours.classes == theirs.classes
        assert ours.labels.tolist() == theirs.labels.tolist()
    # Numbers are numbers of classes, as in lists; 02 is 2.
    rows = [f"dark/{i}.mp4,{label}" for i, label in enumerate(["02", "2", "0", "0"])]
    train, _ = read_labelled(table_of(place, rows))
    assert train.classes == ("0", "1", "2") and sorted(train.labels) == [0, 2]


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (["dark/0.mp4,a", "dark/0.mp4,b"], "path,label", "labels 'a' and 'b'; expected one"),
        (["dark/0.mp4,a"], "path,label", "class a has one video, dark/0.mp4"),
        (["dark/0.mp4,"], "path,label", "row 1 has an empty cell"),
        (["dark/0.mp4,a,b"], "path,label", "row 1 has not 2 cells"),
        (["dark/0.txt,a"], "path,label", "row 1 has the path 'dark/0.txt'"),
        (
            [f"dark/x{i}.mp4,a" for i in range(9)],
            "path,label",
            "names 9 of 9 videos that do not exist below",
        ),
        (
            ["dark/0.mp4,a,train", "dark/1.mp4,b,val", "dark/2.mp4,c,val"],
            "path,label,split",
            "classes b, c have validation videos, none to train on",
        ),
        (["dark/0.mp4,a,train"], "path,label,split", "no rows of the split 'val'"),
        (["dark/0.mp4,a,odd"], "path,label,split", "has the split 'odd'; expected one of"),
        (["dark/0.mp4,a,train", "dark/0.mp4,a,val"], "path,label,split", "splits 'train'"),
    ],
)  # fmt: skip
def test_faults_of_tables_are_named(folder, rows, header, words):
    with pytest.raises(ValueError) as caught:
        read_labelled(table_of(folder / "faulty.csv", rows, header))
    (line,) = str(caught.value).splitlines()
    assert "faulty.csv" in line and words in line


def write_tfds(version, examples, video):
    """A data set with the splits train and test; video: its kind in features.json."""
    features = tensorflow_datasets.features
    stored = features.Scalar(np.object_)
    stored = (
        features.Sequence(stored) if isinstance(examples[0]["video"], list) else stored
    )
    kinds = {"video": stored, "label": features.ClassLabel(names=["up", "down"])}
    version.mkdir(parents=True)
    features.FeaturesDict(kinds).save_config(str(version))
    path = version / "features.json"
    if video:
        known = json.loads(path.read_text())
        known["featuresDict"]["features"]["video"] = video
        path.write_text(json.dumps(known))
    splits = []
    for name in ("train", "test"):
        file = version / f"{version.parent.name}-{name}.tfrecord-00000-of-00001"
        records = (features.FeaturesDict(kinds).serialize_example(e) for e in examples)
        file.write_bytes(b"".join(map(tfds_files.frame, records)))
        count = [str(len(examples))]
        splits.append({"name": name, "shardLengths": count, "numBytes": "1"})
    info = {"name": version.parent.name, "version": version.name, "splits": splits}
    (version / "dataset_info.json").write_text(
        json.dumps(info | {"fileFormat": "tfrecord"})
    )


VIDEO = {
    "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
    "video": {"shape": {"dimensions": ["-1", "16", "20", "3"]}, "dtype": "uint8"},
}


def test_tensorflow_datasets_keep_their_class_names(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    files = [(folder / "dark" / f"{i}.mp4").read_bytes() for i in range(3)]
    examples = [{"video": x, "label": i % 2} for i, x in enumerate(files)]
    write_tfds(tmp_path / "files" / "1.0.0", examples, None)
    train, validation = read_labelled("tfds:files")
    assert train.classes == validation.classes == ("up", "down")
    assert train.labels.tolist() == [0, 1, 0] and train.video(2) == files[2]
    assert train.root != validation.root  # their features are kept apart
    # Frames, which TensorFlow's class Video stores as pictures without times.
    frames = [encode_png(np.full((16, 20, 3), 10 * i, np.uint8)) for i in range(7)]
    write_tfds(
        tmp_path / "frames" / "1.0.0", [{"video": frames, "label": 1}] * 2, VIDEO
    )
    video = read_labelled("tfds:frames")[0].video(0)
    shown = read_views(video, frames=3, size=16, frame_step=2)
    assert shown[0, 0, :, 8, 8, 0].tolist() == [0, 20, 40]
    with pytest.raises(BadSample, match="pictures without times; give --frame_step"):
        read_views(video, frames=3, size=16, fps=4.0)


def test_clips_take_every_so_many_frames_of_a_file(tmp_path):
    path = clocks.write_clock(tmp_path / "x.mp4", np.arange(30) / 10)
    shown = read_views(path, frames=4, size=32, fps=1.0, frame_step=3, clips=2)
    # 12 of 30 frames: clips begin at a quarter and three quarters of the other 18.
    starts = [clocks.read_clock(shown[0, i]).tolist() for i in range(2)]
    assert starts == [[4, 7, 10, 13], [13, 16, 19, 22]]


def test_a_published_classifier_is_scored_by_itself(folder, tmp_path):
    """Its classes are matched by name; the chance of a class is its logit's."""
    known = ("Middle", "unused", "LIGHT", "dark")
    centers = np.asarray([120, 300, 200, 40]) / 64 - 2
    classifier = Classifier(
        lambda scale, tokens: -scale * (tokens.mean(1)[:, :1] - centers) ** 2,
        np.float32(4), 4, known,
    )  # fmt: skip
    report = evaluate_frozen(
        FROZEN, 1.0, read_labelled(str(folder)), tmp_path, about={},
        classifier=classifier, options=OPTIONS,
    )  # fmt: skip
    assert list(report["encoders"]) == ["bright"]
    found = report["encoders"]["bright"]["published"]
    assert found["accuracy"] == 1 and found["per_class"]["LIGHT"] == 1
    assert "| bright | published head | 1.000 |" in (tmp_path / "frozen.md").read_text()
    rows = (tmp_path / "predictions" / "bright_published.csv").read_text().splitlines()
    assert len(rows) == 7 and rows[0].startswith(
        "path,label,class1,probability1,class2"
    )
    assert len(list((tmp_path / "features").iterdir())) == 1  # no training videos


def test_classes_that_do_not_fit_are_refused():
    named = Classifier(lambda p, x: x, None, 3, ("Pushing [something]", "b", "c"))
    unnamed = named._replace(classes=())
    assert match_classes(("c", "pushing_something"), named).tolist() == [2, 0]
    assert match_classes(("0", "2"), unnamed).tolist() == [0, 2]
    for classes, classifier, words in (
        (("b", "x", "y"), named, "no class for 2 of 3 labels, such as 'x'; it has 3"),
        (("0", "3"), named, "the class 3, the classifier only the classes 0 to 2"),
        (
            ("b",),
            unnamed,
            "3 classes without names; expected labels that are their numbers",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            match_classes(classes, classifier)
        assert words in str(caught.value)


def test_result_folders_of_others_are_refused(tmp_path):
    method = types.SimpleNamespace()
    run, out = tmp_path / "run", tmp_path / "out"
    (out / "evaluations").mkdir(parents=True)
    run.mkdir()
    (run / "config.json").write_text("{}")
    first, second = (run / "checkpoints" / str(step) for step in (1, 2))
    check_results_folder(Opened(run, {}, method, first, 1, None))  # its own
    with pytest.raises(ValueError, match="run holds a config.json"):
        check_results_folder(Opened(run, {}, method, tmp_path / "x.pt", 0, None))
    known = json.dumps({"about": {"checkpoint": str(first)}})
    (out / "evaluations" / "frozen.json").write_text(known)
    check_results_folder(Opened(out, {}, method, second, 2, None))  # of the same run
    with pytest.raises(ValueError, match="out holds results of .*checkpoints/1; give"):
        check_results_folder(Opened(out, {}, method, tmp_path / "x.pt", 0, None))


def test_top_five_and_classes_are_counted():
    """Against sorting and counting by hand."""
    rng = np.random.default_rng(0)
    p, labels = rng.random((2, 30, 7)), rng.integers(0, 7, 30)
    found = accuracy(top_of(p).classes, labels, 7)
    ranks = [[list(np.argsort(-q)).index(y) for q, y in zip(x, labels, strict=True)]
             for x in p]  # fmt: skip
    assert found["accuracy"] == pytest.approx(np.mean(np.equal(ranks, 0)))
    assert found["top5"] == pytest.approx(np.mean(np.less(ranks, 5)))
    assert found["per_class"][3] == pytest.approx(
        np.mean([rank[i] == 0 for rank in ranks for i in np.flatnonzero(labels == 3)])
    )
    shares = confusion(np.asarray([0, 1, 1, 9]), np.asarray([0, 0, 1, 1]), 2)[..., 0]
    assert shares.shape == (512, 512)
    assert shares[::256, ::256].tolist() == [[127, 127], [255, 0]]


def test_features_that_are_not_finite_are_refused(tmp_path):
    def load(row):
        return np.zeros((1, 1, 1, 4, 4, 3), np.uint8)

    for value in (np.nan, 1e6):
        encode = functools.partial(np.full, (2, 1, 1), value)
        place = tmp_path / str(value)
        with pytest.raises(ValueError, match="features are not finite"):
            extract(place, lambda x, f=encode: f(), load, 2, batch=2, workers=1)


def test_unknown_names_are_refused(folder, tmp_path):
    data = read_labelled(str(folder))
    for names in ({"heads": ("knnn",)}, {"encoders": ("brigt",)}):
        with pytest.raises(ValueError, match=r"did you mean '(knn|bright)'"):
            evaluate_frozen(
                FROZEN, 1.0, data, tmp_path, about={}, options=OPTIONS, **names
            )
