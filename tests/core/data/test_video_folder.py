"""Folders and list files of videos, and errors for mistakes in them."""

import os
import shutil

import numpy as np
import pytest
from clocks import STEADY, read_clock, write_clock

from core.base.text import name_on_disk, printable_name
from core.data.clips import View
from core.data.decoding.video import SUFFIXES
from core.data.files.file_lists import find_files, log_once
from core.data.loading.pipeline import make_source
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


def test_other_suffixes_are_counted_and_named_once(folder, caplog):
    log_once.cache_clear()
    for name in ("x.gif", "b/y.GIF", "b/README", ".hidden"):
        (folder / name).write_text("")
    for suffix in ("M4V", "mpg", "mpeg", "ts", "MTS", "m2ts", "wmv", "flv", "3gp"):
        shutil.copy(folder / "c.mp4", folder / f"d.{suffix}")
    view = View(frames=4, fps=10, size=16, kind="center")
    VideoFolder(str(folder), view)
    videos = VideoFolder(str(folder), view)
    assert len(videos) == 12
    for index in range(12):  # whatever the suffix says, the content decides
        assert read_clock(videos.load(index, None)["video"]).tolist() == [2, 3, 4, 5]
    [line] = [x.getMessage() for x in caplog.records]
    assert line == (
        f"{folder}: 4 files (2 .gif, 1 without suffix, 1 .txt) passed over by suffix; "
        "videos are the others"
    )
    (folder / "none").mkdir()
    (folder / "none" / "x.gif").write_text("")
    with pytest.raises(ValueError, match=r"none has no videos, but 1 file \(1 \.gif\)"):
        VideoFolder(str(folder / "none"), view)


def test_work_and_output_of_preparation_are_passed_over(folder):
    kept = find_files(str(folder), SUFFIXES, "videos")
    for name, mark in (
        ("set.work", "prepare.lock"),
        ("set/1.0.0", "dataset_info.json"),
    ):
        (folder / name / "part").mkdir(parents=True)
        (folder / name / mark).write_text("")
        shutil.copy(folder / "c.mp4", folder / name / "part" / "00000.mp4")
    old = folder / "old.work" / "83b0a25e4686c5b1f20eb22288887eaa048e186e"
    old.mkdir(parents=True)  # as earlier versions left it
    shutil.copy(folder / "c.mp4", old / "00000.mp4")
    (folder / "mine.work").mkdir()
    shutil.copy(folder / "c.mp4", folder / "mine.work" / "own.mp4")
    found = find_files(str(folder), SUFFIXES, "videos")
    assert set(found.paths) == {*kept.paths, "mine.work/own.mp4"}
    assert found.passed_over == kept.passed_over
    with pytest.raises(
        ValueError, match="videos: it is a data set, or the work folder"
    ):
        find_files(str(folder / "set.work"), SUFFIXES, "videos")


BYTES = [b"caf\xe9.mp4", rb"a\b\xe9.mp4", b"new\nline.mp4", b"\xff\xfe \\x5c.mp4"]


@pytest.mark.parametrize("name", BYTES)
def test_names_of_any_bytes_have_a_printable_form_that_leads_back(name, tmp_path):
    text = printable_name(os.fsdecode(name))
    assert text.isprintable() and text.encode()
    assert os.fsencode(name_on_disk(text)) == name
    path = os.fsencode(tmp_path) + b"/" + name
    os.rename(write_clock(tmp_path / "c.mp4", STEADY[:8]), path)
    view = View(frames=4, fps=10, size=16, kind="center")
    (tmp_path / "lists").mkdir()
    lists = [tmp_path, tmp_path / "lists" / "printable.txt"]
    lists[1].write_text(f"../{text}")
    if b"\n" not in name:
        lists.append(tmp_path / "lists" / "bytes.txt")
        lists[2].write_bytes(b"../" + name)
    for place in lists:
        videos = VideoFolder(str(place), view)
        assert videos.name(0).removeprefix("../") == text
        assert read_clock(videos.load(0, None)["video"]).tolist() == [2, 3, 4, 5]


def test_a_home_folder_is_found_or_not_needed(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "list.txt").write_text("~/c.mp4 1\n~root/no.mp4 2")
    videos = VideoFolder("~/list.txt", View(frames=4, fps=10, size=16))
    assert videos.paths == (f"{folder}/c.mp4", os.path.expanduser("~root/no.mp4"))
    assert videos.load(0, np.random.default_rng(0))["video"].shape == (4, 16, 16, 3)

    def no_entry(*_):
        raise KeyError("no passwd entry")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    with pytest.raises(
        ValueError, match="~/videos begins with '~', but there is no such"
    ):
        VideoFolder("~/videos", View())


def test_clips_that_repeat_frames_are_counted_and_reported_once(tmp_path, caplog):
    for i in range(5):  # 0.8 s each, all but one
        write_clock(tmp_path / f"{i}.mp4", STEADY[: 8 if i else 30])
    videos = VideoFolder(str(tmp_path), View(frames=12, fps=10, size=16))
    source = make_source(videos, batch=5, seed=0, shuffle=False)
    for batches in (1, 2, 3):
        source.next()
        assert source.report()["numbers"] == {"repeated_frames": 4 * batches}
    lines = [x.getMessage() for x in caplog.records]
    [line] = [x for x in lines if "fewer different frames than data.frames" in x]
    assert line.startswith(f"8 of the first 10 clips of {tmp_path} have fewer")
    assert "(4.0 of them repeat" in line and "lower data.fps" in line
    state = source.get_state()
    assert state["repeated_frames"] == 12
    del state["repeated_frames"]  # a cursor from before they were counted
    source.set_state(state)
    source.next()
    assert source.report()["numbers"] == {"repeated_frames": 4}
    source.close()
