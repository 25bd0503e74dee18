"""Prepared videos: times of clips, duplicates, splits, damage, kills, Beam."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import tensorflow_datasets
from clocks import (
    STEADY,
    UNEVEN,
    break_empty,
    break_rotten,
    break_silent,
    break_text,
    break_truncated,
    read_clock,
    write,
    write_clock,
)
from jobs_bad import job
from small import ROOT, small, use_one_device

from core import train
from core.data import source_names
from core.data.clips import View
from core.data.decoding.video import decode_clip
from core.data.records import BadSample
from core.data.tfds import Shards
from core.prepare import near_duplicates, parallel_work, run, video_clips
from core.prepare.cut_video import Recipe, cut_clips, target_shape
from core.prepare.video_clips import Rules, VideoPlan

RECIPE = Recipe(size=48, fps=5, seconds=1, min_seconds=0.4)


def noise(seed, frames=16):
    """Smooth noise that moves, different for every seed: uint8 [frames, 48, 64, 3]."""
    import cv2

    rng = np.random.default_rng(seed)
    tiny = rng.integers(0, 256, (frames // 4 + 2, 6, 8, 3)).astype(np.uint8)
    large = [cv2.resize(x, (64, 48), interpolation=cv2.INTER_CUBIC) for x in tiny]
    at = np.arange(frames) / 4
    mix = [
        large[int(t)] * (1 - t % 1) + large[int(t) + 1] * (t % 1) for t in at.tolist()
    ]
    return np.stack(mix).astype(np.uint8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Nine videos, among them a re-encoded copy and a still, and five broken files."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "sub").mkdir()
    for seed in range(7):
        suffix = ("mp4", "webm", "mkv", "avi")[seed % 4]
        write(folder / "sub" / f"v{seed}.{suffix}", noise(seed), STEADY[:16])
    write(folder / "z_copy.mov", noise(2), STEADY[:16])
    write(folder / "still.mp4", noise(9)[:1].repeat(16, 0), STEADY[:16])
    other = tmp_path_factory.mktemp("broken")
    broken = [break_empty(other), break_text(other), break_silent(other)]
    broken += [break_rotten(other), break_truncated(other, "mp4", share=0.3)]
    for path in broken:
        shutil.copy(path, folder / f"broken_{path.name}")
    return folder


def plan_of(raw, **rules):
    return VideoPlan(str(raw), RECIPE, Rules(held=0.3, **rules), "CC0")


def examples_of(folder):
    """{split: {id: example}} of a data set, read by tensorflow-datasets itself."""
    builder = tensorflow_datasets.builder_from_directory(str(folder))
    return {
        split: {x["id"]: x for x in builder.as_data_source(split)}
        for split in builder.info.splits
    }


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    lines = []
    to = tmp_path_factory.mktemp("sets") / "noise"
    options = {"workers": 2, "shard_mb": 64, "say": lines.append}
    return run.prepare(run.VIDEOS, plan_of(raw), str(to), **options), lines


def text(example, name):
    value = example[name]
    return value.decode() if isinstance(value, bytes) else value


def test_clips_have_a_constant_frame_rate(tmp_path):
    for name, times in (("steady", STEADY), ("uneven", UNEVEN)):
        path = write_clock(tmp_path / f"{name}.mp4", times)
        found = list(cut_clips(path, RECIPE))
        shown = np.concatenate(
            [decode_clip(clip.video, 0, clip.fps, clip.frames) for clip in found]
        )
        count = len(shown)
        np.testing.assert_array_equal(
            read_clock(shown), read_clock(decode_clip(path, 0, 5, count))
        )
        assert [clip.frames for clip in found[:-1]] == [5] * (len(found) - 1)
        assert [clip.start for clip in found] == [*range(len(found))]
        assert found[-1].end == pytest.approx(found[-1].start + found[-1].frames / 5)


def test_clips_have_keyframes_and_decode_fast(tmp_path):
    path = write_clock(tmp_path / "c.mp4", STEADY)
    [clip] = cut_clips(path, Recipe(size=48, fps=10, seconds=3, keyframe=8))
    (tmp_path / "clip.mp4").write_bytes(clip.video)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        keys = [frame.key_frame for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
    at = np.flatnonzero(keys)
    assert at[0] == 0 and 5 <= np.diff(at).min() and np.diff(at).max() <= 8
    # x264 writes its settings into the file.
    assert b"cabac=0" in clip.video and b"deblock=0" in clip.video


def test_short_ends_are_left_out(tmp_path):
    path = write_clock(tmp_path / "c.mp4", STEADY[:13])  # 1.3 s: one clip and 2 frames
    assert [clip.frames for clip in cut_clips(path, RECIPE)] == [5, 2]
    longer = Recipe(size=48, fps=5, seconds=1, min_seconds=0.8)
    assert [clip.frames for clip in cut_clips(path, longer)] == [5]


def test_sizes_are_even_and_never_larger():
    assert target_shape(480, 640, 256) == (256, 342)
    assert target_shape(1920, 1080, 256) == (456, 256)
    assert target_shape(97, 131, 256) == (96, 132)


def test_clips_end_at_damage(tmp_path):
    path = break_truncated(tmp_path, "webm")
    found = []
    with pytest.raises(BadSample, match=r"ends at 1\.\d s of 3\.0 s"):
        for clip in cut_clips(path, RECIPE):
            found.append(clip)
    assert [clip.frames for clip in found] == [5]


def test_hashes_of_copies_are_similar_and_of_others_not(tmp_path):
    prints = {}
    for name, seed in (("a.mp4", 1), ("b.webm", 1), ("c.mp4", 2)):
        path = write(tmp_path / name, noise(seed), STEADY[:16])
        [clip] = cut_clips(path, Recipe(fps=5, size=48, min_seconds=1))
        prints[name] = clip.fingerprint
    assert len(prints["a.mp4"]) * 4 == near_duplicates.BITS
    assert near_duplicates.distance(prints["a.mp4"], prints["b.webm"]) <= 8
    assert near_duplicates.distance(prints["a.mp4"], prints["c.mp4"]) > 40


def test_bands_find_all_near_duplicates():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, (60, near_duplicates.BITS))
    flips = [
        rng.permutation(near_duplicates.BITS)[: rng.integers(0, 25)] for _ in first
    ]
    second = first.copy()
    for row, flip in zip(second, flips, strict=True):
        row[flip] ^= 1
    rows = np.packbits(np.concatenate([first, second]).astype(np.uint8), axis=1)
    prints = {f"{i:03d}": row.tobytes().hex() for i, row in enumerate(rows)}
    found = near_duplicates.find_duplicates(prints, near_duplicates.BANDS - 1)
    expected = {
        f"{60 + i:03d}": f"{i:03d}" for i, flip in enumerate(flips) if len(flip) < 16
    }
    assert found == expected and 20 < len(found) < 50


def test_a_video_most_of_whose_clips_are_copies_is_a_copy():
    rng = np.random.default_rng(0)
    first = [rng.bytes(24).hex() for _ in range(6)]
    clip = {"motion": 1.0, "checksum": "0" * 64}
    known = [clip | {"id": f"a#{i}", "fingerprint": x} for i, x in enumerate(first)]
    # Two of five clips are not like those of "a"; then "c" shares two of four.
    second = [*first[:3], *(rng.bytes(24).hex() for _ in range(2))]
    third = [*first[:2], *(rng.bytes(24).hex() for _ in range(2))]
    for name, prints in (("b", second), ("c", third)):
        known += [
            clip | {"id": f"{name}#{i}", "fingerprint": x} for i, x in enumerate(prints)
        ]
    # Black clips make no copy of a video.
    dark = {"motion": 0.0, "fingerprint": "0" * 48}
    known += [clip | dark | {"id": f"{name}#{i}"} for name in "cd" for i in (7, 8, 9)]
    known += [clip | {"id": "d#0", "fingerprint": rng.bytes(24).hex()}]
    splits = video_clips.assign_clip_splits(known, Rules(held=0))
    kept = [name for name, split in splits.items() if split == "train"]
    assert kept == [*(f"a#{i}" for i in range(6)), "c#2", "c#3", "d#0"]
    assert splits["b#4"] == "looks like another: a#0"


def test_clips_of_one_video_share_a_split():
    clip = {"motion": 1.0, "fingerprint": ""}
    rng = np.random.default_rng(0)
    known = [
        clip | {"id": f"{i}#{k}", "checksum": rng.bytes(32).hex()}
        for i in range(400)
        for k in range(1)
    ]
    known += [dict(one, id=f"{one['id']}b") for one in known]
    splits_of = video_clips.assign_clip_splits(known, Rules(near=-1, held=0.2))
    assert all(splits_of[x["id"]] == splits_of[f"{x['id']}b"] for x in known[:400])
    assert 55 < sum(splits_of[x["id"]] == "validation" for x in known[:400]) < 105
    # One of a few videos is for validation; none of a single one.
    few = video_clips.assign_clip_splits(known[:3], Rules(near=-1, held=0.01))
    assert sorted(few.values()) == ["train", "train", "validation"]
    assert set(video_clips.assign_clip_splits(known[:1], Rules(near=-1)).values()) == {
        "train"
    }


def test_a_folder_becomes_a_data_set(raw, prepared):
    folder, lines = prepared
    splits = examples_of(folder)
    assert splits.keys() == {"train", "validation"}
    sources = {
        split: {text(x, "source") for x in some.values()}
        for split, some in splits.items()
    }
    assert not sources["train"] & sources["validation"]
    kept = sources["train"] | sources["validation"]
    assert len(kept) == 7 and len(kept & {"sub/v2.mkv", "z_copy.mov"}) == 1
    for some in splits.values():
        for x in some.values():
            assert x["start"] == int(text(x, "id").rpartition("#")[2])
            assert text(x, "licence") == "CC0" and x["label"] == -1
            path = str(raw / text(x, "source"))
            theirs = decode_clip(path, x["start"], x["fps"], x["frames"])
            ours = decode_clip(bytes(x["video"]), 0, x["fps"], x["frames"])
            difference = np.abs(ours.astype(float) - theirs)
            assert ours.shape == theirs.shape and difference.mean() < 8
    report = json.loads((folder / "report.json").read_text())
    assert report["videos"] == 14 and report["bad_videos"] == 5
    assert report["bad"]["broken_sound.mp4"] == "no video stream"
    assert report["clips_dropped"].keys() == {"moves too little", "looks like another"}
    counted = {k: v["clips"] for k, v in report["splits"].items()}
    assert counted == {split: len(some) for split, some in splits.items()}
    assert (folder / "contact_sheet.png").stat().st_size > 10_000
    assert any("5 of them bad" in line for line in lines)


def test_what_is_prepared_trains(prepared, tmp_path, monkeypatch):
    use_one_device(monkeypatch)
    folder, _ = prepared
    config = small(data__source=str(folder.parent), data__fps=5.0, steps=2)
    assert train.fit(config, tmp_path).step == 2
    view = View(frames=4, fps=5, size=32)
    train_, held = (
        source_names.videos(str(folder), s, view, None) for s in ("train", "validation")
    )
    places = {
        split: {text(records.inner[i], "source") for i in range(len(records))}
        for split, records in (("train", train_), ("validation", held))
    }
    assert places["train"] and places["validation"]
    assert not places["train"] & places["validation"]


def test_one_video_alone_is_never_split(tmp_path):
    write(tmp_path / "one.mp4", noise(0), STEADY[:16])
    to = tmp_path / "sets" / "one"
    (to / "incomplete.1A2B3C_1.0.0").mkdir(parents=True)  # from a killed run
    run.prepare(
        run.VIDEOS,
        VideoPlan(str(tmp_path), RECIPE),
        str(to),
        workers=1,
        shard_mb=64,
        say=id,
    )
    assert [path.name for path in to.iterdir()] == ["1.0.0"]
    assert len(Shards(str(to), "train")) == 2
    with pytest.raises(ValueError, match="has no records in the split 'validation'"):
        Shards(str(to), "validation")


def command(raw, to, *more):
    flags = "--size=48 --fps=5 --seconds=1 --min_seconds=0.4 --held=0.3 --licence=CC0"
    return [
        *(sys.executable, "-m", "launch.prepare", f"--from={raw}", f"--to={to}"),
        *flags.split(),
        *more,
    ]


def test_a_killed_run_continues(raw, prepared, tmp_path):
    to, half = tmp_path / "noise", tmp_path / "noise.work"
    process = subprocess.Popen(command(raw, to, "--workers=1"), cwd=ROOT)
    try:
        while (
            len(list(half.glob(f"*/{parallel_work.FACTS}"))) < 4
            and process.poll() is None
        ):
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = {
        path: path.stat().st_mtime_ns for path in half.glob(f"*/{parallel_work.FACTS}")
    }
    assert 4 <= len(done) < 14
    seen = []
    video_clips.cut_videos(
        plan_of(raw), half, workers=2, progress=lambda done, count: seen.append(done)
    )
    assert seen[0] >= 4 and seen[-1] == 14
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    subprocess.run(command(raw, to), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert not half.exists()
    assert examples_of(to / "1.0.0") == examples_of(prepared[0])


@pytest.fixture(scope="module")
def eaten(tmp_path_factory):
    """Four videos, one of them with a name that is not UTF-8, prepared into a folder below
    them after a call that was killed: (folder of the videos, of the data set, lines).
    """
    raw = tmp_path_factory.mktemp("eaten")
    for seed in range(3):
        write(raw / f"v{seed}.mp4", noise(seed), STEADY[:16])
    shutil.copy(raw / "v0.mp4", raw / "z.mp4")
    os.rename(raw / "z.mp4", os.fsencode(raw) + b"/caf\xe9.mp4")
    plan = plan_of(raw, near=-1)
    video_clips.cut_videos(plan, raw / "clips.work")
    shutil.rmtree(raw / "clips.work" / parallel_work.folder_name("v1.mp4"))
    lines = []
    options = {"workers": 2, "shard_mb": 64, "say": lines.append}
    return raw, run.prepare(run.VIDEOS, plan, str(raw / "clips"), **options), lines


def test_preparation_never_reads_its_own_work_or_output(eaten):
    raw, folder, lines = eaten
    sources = [name for name, _, _ in plan_of(raw).sources()]
    assert sources == ["caf\\xe9.mp4", "v0.mp4", "v1.mp4", "v2.mp4"]
    assert "4 videos, 0 of them bad; 8 clips cut" in lines
    report = json.loads((folder / "report.json").read_text())
    assert report["videos"] == 4 and report["passed_over"] == {}
    found = {
        text(x, "source")
        for some in examples_of(folder).values()
        for x in some.values()
    }
    assert found == {*sources}


def test_videos_of_the_same_content_share_a_split(eaten):
    _, folder, _ = eaten
    where = {
        text(x, "source"): split
        for split, some in examples_of(folder).items()
        for x in some.values()
    }
    assert set(where.values()) == {"train", "validation"}
    assert where["caf\\xe9.mp4"] == where["v0.mp4"]


HOLD = """
import pathlib, sys, time
from core.base.locks import hold_lock
with hold_lock(pathlib.Path(sys.argv[1]), "is preparing x") as has_locks:
    print(has_locks, flush=True)
    time.sleep(60)
"""


def test_a_second_preparation_is_refused_until_the_first_ends(eaten, tmp_path):
    raw, (to, work) = eaten[0], (tmp_path / "x", tmp_path / "x.work")
    mark = parallel_work.mark_work_folder(work)
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(mark)], **options)
    try:
        assert holder.stdout.readline() == "True\n"
        words = rf"process {holder.pid} on \S+ since 20.* is preparing .*x; wait for it"
        with pytest.raises(ValueError, match=words):
            run.prepare(run.VIDEOS, plan_of(raw), str(to), workers=1, shard_mb=64)
    finally:
        holder.kill()
        holder.communicate()
    with run.hold_target(to, None) as (folder, is_new):
        assert (folder, is_new) == (work, True)
    assert not work.exists()


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    lines = []
    with run.hold_target(tmp_path / "x", lines.append):
        assert "on a file system without locks: let no other process" in lines[0]


def test_folders_of_others_are_never_taken_for_work(eaten, tmp_path):
    options = {"workers": 1, "shard_mb": 64, "say": id}
    (tmp_path / "x.work").mkdir()
    write(tmp_path / "x.work" / "mine.mp4", noise(0), STEADY[:16])
    with pytest.raises(ValueError, match="x.work is needed for work in progress, but"):
        run.prepare(run.VIDEOS, plan_of(tmp_path), str(tmp_path / "x"), **options)
    with pytest.raises(ValueError, match="which holds the recordings; choose another"):
        run.prepare(run.VIDEOS, plan_of(tmp_path), str(tmp_path), **options)
    assert (tmp_path / "x.work" / "mine.mp4").exists()
    # What a killed call left must not hide that the target holds something else.
    shutil.copytree(eaten[1], tmp_path / "y" / "1.0.0")
    plan = plan_of(tmp_path / "x.work")
    video_clips.cut_videos(plan, tmp_path / "y.work")
    with pytest.raises(ValueError, match="y exists already; choose another name"):
        run.prepare(run.VIDEOS, plan, str(tmp_path / "y"), **options)


def test_a_changed_file_or_recipe_is_cut_anew(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / "a.mp4", noise(0), STEADY[:16])
    write(raw / "b.mp4", noise(1), STEADY[:16])

    def cut_count(recipe=RECIPE):
        seen = []
        plan, progress = VideoPlan(str(raw), recipe), lambda done, _: seen.append(done)
        video_clips.cut_videos(plan, tmp_path / "work", progress=progress)
        return 2 - seen[0]

    assert cut_count() == 2 and cut_count() == 0
    write(raw / "b.mp4", noise(2, 14), STEADY[:14])
    assert cut_count() == 1
    assert cut_count(Recipe(size=32, fps=5, seconds=1, min_seconds=0.4)) == 2


def test_a_full_disk_is_not_a_bad_video(raw, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    source = next(x for x in plan_of(raw).sources() if x[0] == "sub/v0.mp4")
    with pytest.raises(OSError, match="No space left"):
        video_clips.cut_one_video(tmp_path / "one", plan_of(raw), *source)
    assert parallel_work.read_facts(tmp_path / "one") is None


def test_a_run_killed_at_the_end_only_writes_the_report(raw, prepared, tmp_path):
    to = tmp_path / "noise"
    shutil.copytree(prepared[0], to / "1.0.0")
    (to / "1.0.0" / "report.json").unlink()
    video_clips.cut_videos(plan_of(raw), tmp_path / "noise.work", workers=2)
    before = examples_of(to / "1.0.0")
    run.prepare(run.VIDEOS, plan_of(raw), str(to), workers=2, shard_mb=64, say=id)
    assert examples_of(to / "1.0.0") == before
    assert (to / "1.0.0" / "report.json").exists()
    assert not (tmp_path / "noise.work").exists()


def test_a_crash_or_a_hang_loses_one_file(tmp_path):
    kinds = ["good", "crash", "hang", "fine"]
    lost = {}
    done = parallel_work.run_all(
        {tmp_path / kind: (kind,) for kind in kinds},
        job,
        workers=2,
        timeout_s=6,
        on_lost=lambda folder, reason, kind: lost.update({kind: reason}),
    )
    assert sorted(path.name for path in done) == sorted(kinds)
    assert lost == {
        "crash": "its process ended with exit code -11",
        "hang": "its process took longer than 6 s",
    }
    assert [k for k in kinds if parallel_work.read_facts(tmp_path / k)] == [
        "good",
        "fine",
    ]


def test_beam_makes_the_same_data_set(raw, prepared, tmp_path):
    pytest.importorskip("apache_beam", reason="apache-beam is in requirements-beam.txt")
    more = ("--beam=runner=DirectRunner",)
    result = subprocess.run(
        command(raw, tmp_path / "noise", *more),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert examples_of(tmp_path / "noise" / "1.0.0") == examples_of(prepared[0])
    assert "bad video: no video stream: 1" in result.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--from=nowhere"], "nowhere does not exist"),
        (
            ["--to=sets/My-Set"],
            "'My-Set' is not a valid name of a data set; use lower-case",
        ),
        (
            ["--min_seconds=2"],
            "min_seconds is 2.0; use more than 0 and at most seconds",
        ),
        (["--near=99"], "near is 99; use -1 to 15 bits"),
        (["--held=1"], "held is 1.0; use 0 or more and less than 1"),
        (["--size=2"], "size is 2; use 16 or more"),
    ],
)
def test_mistakes_exit_with_one_line(flags, words, raw, tmp_path):
    result = subprocess.run(
        command(raw, tmp_path / "noise", *flags),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and words in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_nothing_left_and_nothing_overwritten(raw, prepared, tmp_path):
    only = tmp_path / "raw"
    only.mkdir()
    shutil.copy(raw / "still.mp4", only)
    options = {"workers": 1, "shard_mb": 64, "say": id}
    with pytest.raises(
        ValueError, match="is left: 1 videos, 0 of them bad; 2 clips cut"
    ):
        run.prepare(run.VIDEOS, plan_of(only), str(tmp_path / "none"), **options)
    with pytest.raises(ValueError, match="exists already; choose"):
        run.prepare(run.VIDEOS, plan_of(raw), str(prepared[0].parent), **options)
