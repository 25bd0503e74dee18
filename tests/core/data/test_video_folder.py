"""Folders and list files of videos, and errors for mistakes in them."""

import numpy as np
import pytest
from clocks import STEADY, read_clock, write_clock

from core.data.clips import View
from core.data.pipeline import make_source
from core.data.video_folder import VideoFolder


@pytest.fixture
def folder(tmp_path):
    """Three videos, a hidden one, a text file and a link to the top."""
    (tmp_path / "b" / ".cache").mkdir(parents=True)
    for name in ("c.mp4", "b/a b.webm", "b/.cache/x.mp4"):
        write_clock(tmp_path / name, STEADY[:8])
    write_clock(tmp_path / "upper.mp4", STEADY[:8])
    (tmp_path / "upper.mp4").rename(tmp_path / "A.MP4")
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "b" / "top").symlink_to(tmp_path)
    return tmp_path


def test_a_folder_is_searched_in_order(folder):
    videos = VideoFolder(str(folder), View(frames=4, fps=10, size=16))
    assert videos.paths == ("A.MP4", "b/a b.webm", "c.mp4")
    assert len(videos) == 3 and videos.name(1) == "b/a b.webm"
    assert str(videos) == str(folder)
    item = videos.load(1, np.random.default_rng(0))
    assert item.keys() == {"video", "repeated_frames"}
    assert item["video"].shape == (4, 16, 16, 3) and item["video"].dtype == np.uint8
    again = videos.load(1, np.random.default_rng(0))
    np.testing.assert_array_equal(item["video"], again["video"])


def test_the_center_view_is_not_random(folder):
    videos = VideoFolder(str(folder), View(frames=4, fps=10, size=16, kind="center"))
    a, b = (videos.load(0, np.random.default_rng(seed))["video"] for seed in (0, 1))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(read_clock(a), [2, 3, 4, 5])


@pytest.mark.parametrize(
    ("text", "paths", "labels"),
    [
        ("c.mp4\n\nb/a b.webm\n", ("c.mp4", "b/a b.webm"), ()),
        ("\ufeffb/a b.webm 3\nc.mp4 0\n", ("b/a b.webm", "c.mp4"), (3, 0)),
        ('"c.mp4", 12\n"b/a b.webm",1', ("c.mp4", "b/a b.webm"), (12, 1)),
    ],
)
def test_a_list_file_names_videos_and_labels(text, paths, labels, folder):
    (folder / "list.csv").write_text(text)
    videos = VideoFolder(str(folder / "list.csv"), View(frames=2, fps=10, size=16))
    assert (videos.paths, videos.labels) == (paths, labels)
    for i in range(2):
        item = videos.load(i, np.random.default_rng(0))
        assert item["video"].shape == (2, 16, 16, 3)
        assert [item.get("label")] == list(labels[i : i + 1] or [None])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\nc.mp4,1", "line 1 is 'path,label'; expected the path of a file"),
        (
            "c.mp4,1\nb/a b.webm",
            "has labels for 1 of its 2 videos; expected all or none",
        ),
        ("d/C.mp4", "d/C.mp4 does not exist; paths are relative to the list file"),
        ("C.mp4", "C.mp4 does not exist .did you mean .*/c.mp4"),
        ("", "has no videos; expected a folder with .3gp, .avi"),
    ],
)
def test_mistakes_in_a_list_raise(text, words, folder):
    (folder / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        VideoFolder(str(folder / "list.txt"), View())


def test_mistakes_in_the_folder_raise(folder, tmp_path):
    (folder / "videos").mkdir()
    with pytest.raises(
        ValueError, match="videos has no videos; expected a folder with"
    ):
        VideoFolder(str(folder / "videos"), View())
    missing = str(folder / "vidoes" / "train")
    with pytest.raises(ValueError, match=r"vidoes/train does not exist \(did you mean"):
        VideoFolder(missing, View())
    with pytest.raises(ValueError, match="c.mp4 is not text; expected a folder with"):
        VideoFolder(str(folder / "c.mp4"), View())
    for change in (
        {"frames": 0},
        {"scale": (0.5, 2)},
        {"aspect": (2, 1)},
        {"kind": "x"},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(change))} is "):
            View(**change)


def test_a_broken_file_is_replaced_and_reported(folder):
    (folder / "broken.mp4").write_bytes((folder / "c.mp4").read_bytes()[:600])
    videos = VideoFolder(str(folder), View(frames=4, fps=10, size=16))

    def run(**kw):
        source = make_source(videos, batch=8, seed=0, max_bad_share=0.5, **kw)
        batches = [np.array(source.next()["video"]) for _ in range(2)]
        source.close()
        return np.concatenate(batches), source.report()

    (video, report), (same, again) = run(), run(workers=1)
    np.testing.assert_array_equal(video, same)
    assert report == again and report["bad"] == len(report["new"]) == 4
    assert {(e["name"], e["reason"][:16]) for e in report["new"]} == {
        ("broken.mp4", "is cut: it has 6")
    }
