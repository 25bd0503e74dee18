"""Data sets by name: lists, images, URLs, tensorflow-datasets, and mixtures."""

import collections
import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pyarrow
import pytest
import tensorflow_datasets
from clocks import STEADY, read_clock, write_clock
from numbered import Numbers, take
from pyarrow import parquet
from small import QUICK, small, start

from core.data import source_names, tfds
from core.data.clips import View
from core.data.loading.pipeline import make_source
from core.data.mixture import Mixture
from core.data.records import BadSample
from core.data.tfds_clips import ShardClips
from core.data.video_folder import VideoFolder, read_image

VIEW = View(frames=4, fps=10, size=16, kind="center")
FEATURES = tensorflow_datasets.features


def photos(folder, count=3):
    """A folder of images, each of one gray value."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
    return folder


class Clocks(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    """Clock videos (clocks.py) with labels 10, 11, ..."""

    VERSION = tensorflow_datasets.core.Version("1.2.0")

    def __init__(self, *, video, splits, **kw):
        self.name, self.video, self.splits = "clocks", video, splits
        super().__init__(file_format="array_record", **kw)

    def _info(self):
        fields = {
            "video": FEATURES.Tensor(shape=(), dtype=np.object_),
            "label": np.int64,
        }
        fields = FEATURES.FeaturesDict(fields)
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=fields)

    def _split_generators(self, manager):
        return {
            name: self._generate_examples(count) for name, count in self.splits.items()
        }

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"video": self.video, "label": 10 + i}


@pytest.fixture
def clocks(tmp_path, monkeypatch):
    """A function that builds a data set of clocks in TFDS_DATA_DIR; returns its folder."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    video = pathlib.Path(write_clock(tmp_path / "clock.mp4", STEADY[:8])).read_bytes()

    def build(**splits):
        builder = Clocks(video=video, splits=splits, data_dir=str(tmp_path / "home"))
        builder.download_and_prepare(
            download_config=tensorflow_datasets.download.DownloadConfig(num_shards=2)
        )
        return pathlib.Path(builder.data_dir)

    return build


def labels_of(records):
    rng = np.random.default_rng(0)
    return sorted(int(records.load(i, rng)["label"]) for i in range(len(records)))


def test_a_parquet_list_names_files_and_labels(tmp_path):
    write_clock(tmp_path / "c.mp4", STEADY[:8])
    table = {"path": ["c.mp4", "d.mp4"], "label": [4, 2], "more": ["x", "y"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "list.parquet")
    videos = VideoFolder(str(tmp_path / "list.parquet"), VIEW)
    assert videos.paths == ("c.mp4", "d.mp4") and videos.labels == (4, 2)
    item = videos.load(0, None)
    assert item["label"] == 4
    np.testing.assert_array_equal(read_clock(item["video"]), [2, 3, 4, 5])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"file": ["c.mp4"]}, r"the columns \['file'\]; expected \"path\" among them"),
        ({"path": ["c.mp4", "d.txt"]}, "row 1 has the path 'd.txt'; expected a file"),
        ({"path": ["c.mp4"], "label": ["cat"]}, "labels that are not integers"),
    ],
)
def test_mistakes_in_a_parquet_list_raise(table, words, tmp_path):
    parquet.write_table(pyarrow.table(table), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=words):
        VideoFolder(str(tmp_path / "list.parquet"), VIEW)
    (tmp_path / "list.parquet").write_bytes(b"text")
    with pytest.raises(ValueError, match="cannot be read as Parquet: "):
        VideoFolder(str(tmp_path / "list.parquet"), VIEW)


def test_images_are_clips_without_motion(tmp_path):
    stills = source_names.videos(
        f"images:{photos(tmp_path / 'p')}", "train", VIEW, None
    )
    video = stills.load(2, np.random.default_rng(0))["video"]
    assert video.shape == (4, 16, 16, 3) and (video == 80).all()
    (tmp_path / "p" / "1.png").write_bytes(b"no image")
    with pytest.raises(BadSample, match="not an image"):
        stills.load(1, np.random.default_rng(0))


def test_images_are_cropped_as_videos_are(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), image)
    view = View(frames=2, fps=1, size=40, kind="center")
    [video, same] = VideoFolder(str(tmp_path), view, stills=True).load(0, None)["video"]
    np.testing.assert_array_equal(video, image[:, 10:50])
    np.testing.assert_array_equal(video, same)


def test_a_data_set_of_tfds_is_found_and_read(clocks, tmp_path):
    folder = clocks(train=5, validation=3)
    for name in ("tfds:clocks", "tfds:clocks:1.2.0", str(folder), str(folder.parent)):
        train = source_names.videos(name, "train", VIEW, None)
        assert labels_of(train) == [10, 11, 12, 13, 14]
        assert len(source_names.videos(name, "validation", VIEW, None)) == 3
    np.testing.assert_array_equal(
        read_clock(train.load(1, None)["video"]), [2, 3, 4, 5]
    )
    assert {train.name(i) for i in range(5)} >= {
        "clocks-train.array_record-00000-of-00002[0]",
        "clocks-train.array_record-00001-of-00002[1]",
    }


def test_without_a_validation_split_the_end_of_train_is_used(clocks):
    name = str(clocks(train=45))
    train, held = (
        source_names.videos(name, s, VIEW, None) for s in ("train", "validation")
    )
    assert (len(train), len(held)) == (43, 2)
    assert sorted(labels_of(train) + labels_of(held)) == list(range(10, 55))


def test_mistakes_about_data_sets_raise(clocks, tmp_path):
    folder = clocks(train=4)
    for name, words in (
        (
            "tfds:clock",
            "no data set clock in .* .did you mean 'clocks'.*; there are clocks",
        ),
        (
            "tfds:clocks:1.0.0",
            "tfds:clocks has no version 1.0.0; there are the versions 1.2.0",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            source_names.videos(name, "validation", VIEW, None)
    shard = sorted(folder.glob("*.array_record*"))[1]
    shard.rename(tmp_path / "away")
    with pytest.raises(
        ValueError, match="lacks 1 of its 2 files, such as .*00001-of-00002"
    ):
        source_names.videos(str(folder), "train", VIEW, None)
    info = json.loads((folder / tfds.INFO).read_text()) | {"fileFormat": "riegeli"}
    (folder / tfds.INFO).write_text(json.dumps(info))
    with pytest.raises(
        ValueError, match="has riegeli files; expected array_record or tfrecord"
    ):
        source_names.videos(str(folder), "train", VIEW, None)


def test_of_few_records_one_is_for_validation(clocks):
    folder = str(clocks(train=2))
    train, held = (
        source_names.videos(folder, part, VIEW, None)
        for part in ("train", "validation")
    )
    assert len(train) == len(held) == 1


def test_flipped_bytes_in_a_shard_are_bad_samples(clocks):
    folder = clocks(train=6)
    records = source_names.videos(str(folder), "", VIEW, None)
    [shard] = folder.glob("*00000-of-00002")
    content = bytearray(shard.read_bytes())
    for i in range(200, len(content), 997):
        content[i] ^= 1
    shard.write_bytes(content)
    source = make_source(records, batch=6, seed=0, max_bad_share=0.9)
    batch, report = source.next(), source.report()
    assert report["bad"] == 3 and len(batch["video"]) == 6
    assert all("00000-of-00002[" in one["name"] for one in report["new"])
    np.testing.assert_array_equal(read_clock(batch["video"][0]), [2, 3, 4, 5])


def test_a_data_set_without_images_raises(clocks, monkeypatch):
    name = str(clocks(train=4))
    monkeypatch.setattr(tfds.Shards, "features", ("text", "label"))
    with pytest.raises(
        ValueError, match="has the features text, label; expected 'video', the bytes"
    ):
        source_names.videos(name, "train", VIEW, None)


def test_training_imports_no_tensorflow(clocks, tmp_path):
    """Neither the command nor its workers import it, though a fake one is installed."""
    (tmp_path / "there" / "tensorflow").mkdir(parents=True)
    trace = tmp_path / "imported"
    module = tmp_path / "there" / "tensorflow" / "__init__.py"
    module.write_text(f"open({str(trace)!r}, 'w').close()\n")
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "there"),
        "XLA_FLAGS": QUICK,
    }
    subprocess.run([sys.executable, "-c", "import tensorflow"], env=environment)
    assert trace.exists()
    trace.unlink()
    fields = {"data__source": str(clocks(train=8)), "data__fps": 10.0}
    config = small(**fields, data__workers=1, steps=2)
    with start(config, tmp_path / "run", env=environment) as run:
        output = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert not trace.exists()


def test_a_mixture_draws_by_weight_and_each_part_in_epochs():
    mix = Mixture((Numbers(7), Numbers(50)), (0.25, 0.75))
    source = make_source(mix, batch=8, seed=3)
    batch = take(source, 35)  # 280 samples: 70 of the first, 210 of the second
    order = [mix.locate(i) for i in range(len(mix))]
    assert [order[0][1], order[6][1], order[7][1], order[56][1]] == [0, 6, 0, 49]
    small, large = mix.parts
    assert len(batch["record"]) == 280
    counts = collections.Counter(batch["record"].ravel().tolist())
    assert sum(counts[i] for i in range(7, 50)) == pytest.approx(210 * 43 / 50, abs=12)
    samples = make_source(Marked(mix), batch=8, seed=3)
    parts = take(samples, 35)
    first = parts["record"][parts["part"] == 0].ravel()
    assert len(first) == 70
    for epoch in first.reshape(10, 7):
        assert sorted(epoch) == list(range(7))
    second = parts["record"][parts["part"] == 1].ravel()
    assert sorted(second[:50]) == list(range(50))
    # Weights hold for every 28 samples, not only for all.
    share = (parts["part"].ravel()[:280].reshape(10, 28) == 0).mean(1)
    assert np.abs(share - 0.25).max() < 0.05


class Marked(Mixture):
    """A mixture whose samples have the number of their part."""

    def __init__(self, mix):
        super().__init__(mix.parts, mix.weights)

    def load(self, index, rng):
        part, at = self.locate(index)
        which = self.parts.index(part)
        return part.load(at, rng) | {"part": np.array([which])}


def test_a_bad_record_of_a_mixture_is_replaced_by_one_of_its_part():
    mix = Marked(Mixture((Numbers(4, bad=[1, 2]), Numbers(40)), (1, 1)))
    source = make_source(mix, batch=16, seed=0, max_bad_share=0.9)
    batch, report = take(source, 2), source.report()
    small = batch["record"][batch["part"] == 0]
    assert set(small.ravel()) == {0, 3} and len(small) == 16
    assert report["bad"] == 8
    assert {one["name"] for one in report["new"]} == {
        "the numbers: number 1",
        "the numbers: number 2",
    }


@pytest.mark.parametrize("count", [2, 4])
def test_a_mixture_is_the_same_on_any_number_of_hosts(count):
    mix = Mixture((Numbers(7), Numbers(50)), (1, 3))
    whole = take(make_source(mix, batch=8, seed=3), 4)["noise"].reshape(4, 8, 3)
    hosts = [make_source(mix, batch=8, seed=3, shard=(i, count)) for i in range(count)]
    parts = [take(host, 4)["noise"].reshape(4, 8 // count, 3) for host in hosts]
    np.testing.assert_array_equal(np.stack(parts, 2).reshape(4, 8, 3), whole)


def test_names_of_mixtures(tmp_path):
    assert source_names.mixture_terms("0.7*a b/c + 3 * images:d+e + f") == [
        (0.7, "a b/c"),
        (3.0, "images:d+e"),
        (1.0, "f"),
    ]
    write_clock(tmp_path / "c.mp4", STEADY[:8])
    text = f"2*{tmp_path} + images:{photos(tmp_path / 'p')} + 0.5*world"
    mix = source_names.videos(text, "train", VIEW, lambda: Numbers(9))
    assert mix.weights == (2, 1, 0.5) and len(mix) == 1 + 3 + 9
    assert str(mix) == f"2*{tmp_path} + 1*{tmp_path / 'p'} + 0.5*the numbers"
    for text, words in (
        ("", "'' is not a valid mixture; expected 0.7"),
        ("1.2.3*a", "is not a valid mixture"),
        (
            f"0*{tmp_path} + world",
            "the weight of .* is 0.0; expected a positive number",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            source_names.videos(text, "train", VIEW, lambda: Numbers(9))


def test_shards_are_read_in_workers(clocks):
    records = source_names.videos(str(clocks(train=6)), "train", VIEW, None)
    assert isinstance(records, ShardClips)
    here, there = (make_source(records, batch=3, seed=0, workers=w) for w in (0, 1))
    try:
        np.testing.assert_array_equal(take(here, 2)["label"], take(there, 2)["label"])
    finally:
        there.close()
