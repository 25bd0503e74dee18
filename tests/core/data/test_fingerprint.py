"""A run knows the data it was started with, wherever that lies."""

import json
import types

import numpy as np
import pytest

from core.data import fingerprint as module
from core.data.bodies.world import World
from core.data.clips import View
from core.data.episodes.steps import episode_flags
from core.data.episodes.trajectories import (
    RandomWindows,
    WorldWindows,
    split_recordings,
)
from core.data.fingerprint import fingerprint
from core.data.formats.chunks import Chunk, ChunkFiles, ChunkWindows, write_chunk
from core.data.loading.pipeline import make_source
from core.data.mixture import Mixture
from core.data.video_folder import VideoFolder
from core.runs.data_change import check_data, fingerprints, record_data
from core.runs.run_folder import PROVENANCE
from dreamer.data import Chunks

VIEW = View(frames=2, fps=1.0, size=16)


@pytest.fixture
def videos(tmp_path):
    """A folder of four files, of which only names and sizes count."""
    folder = tmp_path / "videos"
    (folder / "b").mkdir(parents=True)
    for name in ("0.mp4", "1.mp4", "b/2.mp4", "b/3.mp4"):
        (folder / name).write_bytes(bytes(8))
    return folder


@pytest.fixture
def chunks(tmp_path):
    folder = tmp_path / "replay"
    folder.mkdir()
    for start in (0, 20):
        steps = {"action": np.zeros((20, 1)), "reward": np.zeros(20)}
        steps |= episode_flags(20, terminal=False)
        write_chunk(folder, Chunk(0, start, 20), steps)
    return folder


def digest(records):
    [found] = fingerprint(records)
    return found["digest"]


def test_place_count_and_digest_of_a_folder(videos, tmp_path):
    (videos / ".hidden.mp4").write_bytes(b"1")
    (videos / "note.txt").write_text("no video")
    [found] = fingerprint(VideoFolder(str(videos), VIEW))
    assert found.pop("digest") == digest(VideoFolder(str(videos), VIEW))
    assert found == {"place": str(videos), "files": 4, "bytes": 32}
    moved = videos.rename(tmp_path / "moved")
    assert digest(VideoFolder(str(moved), VIEW)) == digest(
        VideoFolder(str(moved), VIEW)
    )


@pytest.mark.parametrize("change", ["moved", "gone", "added", "longer", "renamed"])
def test_what_changes_a_digest(change, videos, tmp_path):
    before = digest(VideoFolder(str(videos), VIEW))
    if change == "gone":
        (videos / "1.mp4").unlink()
    elif change == "added":
        (videos / "4.mp4").write_bytes(b"")
    elif change == "longer":
        (videos / "1.mp4").write_bytes(bytes(9))
    elif change == "renamed":
        (videos / "1.mp4").rename(videos / "11.mp4")
    else:
        videos = videos.rename(tmp_path / "elsewhere")
    assert (digest(VideoFolder(str(videos), VIEW)) == before) == (change == "moved")


def test_files_of_a_list_that_are_missing_change_its_digest(videos):
    (videos / "list.txt").write_text("0.mp4 1\nb/2.mp4 0\n")
    before = digest(VideoFolder(str(videos / "list.txt"), VIEW))
    (videos / "b" / "2.mp4").unlink()
    assert digest(VideoFolder(str(videos / "list.txt"), VIEW)) != before


def test_addresses_are_not_asked_and_may_be_signed_anew(videos):
    def read(signature):
        paths = (f"https://a.b/1.mp4?sign={signature}", "s3://none/2.mp4", "0.mp4")
        found = types.SimpleNamespace(listed_files=lambda: (str(videos), paths))
        return fingerprint(found)

    assert read("x") == read("y") and read("x")[0]["bytes"] == 8


def test_few_sizes_are_asked_for_and_all_names_count(videos, monkeypatch):
    asked = []

    def size_of(root, name):
        asked.append(name)
        return 8

    monkeypatch.setattr(module, "size_of", size_of)
    monkeypatch.setattr(module, "SIZES", 2)
    before = digest(VideoFolder(str(videos), VIEW))
    assert asked == ["0.mp4", "b/3.mp4"]
    (videos / "1.mp4").rename(videos / "11.mp4")
    assert digest(VideoFolder(str(videos), VIEW)) != before


def test_recordings_and_windows_of_them_have_the_files_of_their_folder(chunks):
    [found] = fingerprint(ChunkWindows(str(chunks), 4))
    sizes = sum(path.stat().st_size for path in chunks.iterdir())
    assert (found["files"], found["bytes"]) == (2, sizes)
    train = split_recordings(ChunkFiles(str(chunks)), "train")
    assert fingerprint(RandomWindows(train, 4)) == [found]
    next(chunks.iterdir()).unlink()
    assert fingerprint(ChunkWindows(str(chunks), 4)) != [found]


def test_a_mixture_has_a_fingerprint_per_part_and_the_world_a_trivial_one(videos):
    world = World(0, level="plain", frames=2, fps=4.0, size=16, bodies=2)
    parts = (VideoFolder(str(videos), VIEW), world, WorldWindows(world))
    source = make_source(Mixture(parts, (1.0, 1.0, 1.0)), batch=2, seed=0)
    found = fingerprints(source)
    assert [one["place"] for one in found] == [str(videos), "", ""]
    assert fingerprints(Chunks(source, parts=1, deter=1, stoch=1)) == found
    assert fingerprints(object()) == []


def test_a_resume_with_other_data_is_refused_and_says_the_difference(videos, tmp_path):
    run, moved = tmp_path, tmp_path / "elsewhere"
    (run / PROVENANCE).write_text(json.dumps({"resumed": [{"step": 3}]}))
    before = fingerprint(VideoFolder(str(videos), VIEW))
    check_data(run, before, allow_change=False)  # a run of an older version
    record_data(run, before)
    videos.rename(moved)
    check_data(run, fingerprint(VideoFolder(str(moved), VIEW)), allow_change=False)
    (moved / "0.mp4").unlink()
    now = fingerprint(VideoFolder(str(moved), VIEW))
    with pytest.raises(ValueError) as caught:
        check_data(run, now, allow_change=False)
    assert str(caught.value) == (
        f"the data of the run in {run} has changed: {moved}: 4 files became 3, 32 bytes "
        f"became 24 (before in {videos}). Restore it, or --allow_data_change to go on "
        "with the new data"
    )
    with pytest.raises(ValueError, match="it was 1 data sets, is 2"):
        check_data(run, now * 2, allow_change=False)
    check_data(run, now, allow_change=True)
    record_data(run, now)
    check_data(run, now, allow_change=False)
    known = json.loads((run / PROVENANCE).read_text())
    assert known == {"data": now, "resumed": [{"step": 3, "data_before": before}]}
    (moved / "1.mp4").rename(moved / "7.mp4")
    with pytest.raises(
        ValueError, match="elsewhere: names or sizes of its files differ"
    ):
        check_data(run, fingerprint(VideoFolder(str(moved), VIEW)), allow_change=False)
