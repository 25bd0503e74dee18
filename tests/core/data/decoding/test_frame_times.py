"""Random videos whose frames show their own number: what a clip holds is its definition.

The oracle knows when each frame was written and nothing of the reader: at time t after the
first frame, the frame on screen is the last one written at or before t.
"""

import struct
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import pytest

from core.data.clips import View
from core.data.decoding.video import decode_clip, open_video
from core.data.loading.pipeline import make_source
from core.data.video_folder import VideoFolder
from core.prepare.cut_video import Recipe, cut_clips, target_shape

FILMS = 6  # of each format
CELLS = (3, 4)  # rows and columns of the code in a frame
CODECS = {
    "mp4": ("libx264", {"x264-params": "bframes=2:b-adapt=0:keyint=7"}),
    "mov": ("libx264", {"x264-params": "bframes=0:keyint=20"}),
    "mkv": ("libx264", {"x264-params": "bframes=3:b-adapt=0:keyint=12:open-gop=1"}),
    "webm": ("libvpx", {"g": "9", "deadline": "realtime", "cpu-used": "8"}),
    "ts": ("libx264", {"x264-params": "bframes=2:b-adapt=0:keyint=8"}),
    "flv": ("flv1", {"g": "6"}),
    "wmv": ("wmv2", {"g": "6"}),
    "mpg": ("mpeg2video", {"g": "6"}),
}
STEADY_ONLY = {
    "mpg": Fraction(25)
}  # MPEG-2 has few rates, and no gaps in PyAV's encoder
# Seconds by which times may be rounded. FFmpeg guesses most times in a program stream.
SLACK = dict.fromkeys(CODECS, 1.1e-3) | {"mpg": 0.121}
EIGHTH_TURNS = [  # display matrices: quarter turns, then mirrored ones
    (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
    (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),
]  # fmt: skip


class Film(NamedTuple):
    """A file, and what was written into it."""

    path: str
    times: np.ndarray  # seconds after the first frame
    end: float  # of the last frame, which lasts as long as the frame before it
    aspect: Fraction  # width / height of a pixel
    turn: tuple  # a, b, c, d of the display matrix
    size: tuple  # stored (height, width)


def coded(number, height, width):
    """A picture of 3 x 4 gray blocks: the bits of 7 * number."""
    bits = [(7 * number >> k) & 1 for k in range(12)]
    cells = 60 + 130 * np.array(bits, np.uint8).reshape(CELLS)
    return (
        np.repeat(cells[..., None], 3, -1).repeat(height // 3, 0).repeat(width // 4, 1)
    )


def undone(picture, turn):
    """A picture as it was before the display matrix was applied."""
    a, b, c, d = turn
    return picture[::b, ::c].swapaxes(0, 1) if a == 0 else picture[::d, ::a]


def decoded(picture, turn):
    """The number in an upright picture [H, W, 3] of any size."""
    gray = undone(picture, turn).mean(-1).astype(np.float32)
    cells = cv2.resize(gray, (40, 30), interpolation=cv2.INTER_AREA)
    middle = cells[5::10, 5::10].ravel()
    assert np.abs(middle - 125).min() > 25, (
        middle
    )  # each block is clearly dark or light
    value = sum(int(x > 125) << k for k, x in enumerate(middle))
    assert value % 7 == 0, value
    return value // 7


def random_film(folder, rng, suffix) -> Film:
    """A film of random size, pixel aspect, rate, gaps, start and display matrix."""
    height, width = 6 * int(rng.integers(8, 17)), 8 * int(rng.integers(6, 17))
    rates = [
        Fraction(10),
        Fraction(25),
        Fraction(30000, 1001),
        Fraction(12),
        Fraction(50),
    ]
    rate = STEADY_ONLY.get(suffix) or rates[rng.integers(len(rates))]
    count = int(rng.integers(20, 140 if suffix == "mpg" else 70))
    jumps = np.ones(count - 1, int)
    if suffix not in STEADY_ONLY and rng.random() < 0.5:
        jumps = rng.choice([1, 1, 1, 2, 3, 9], count - 1)
    ticks = np.concatenate([[0], np.cumsum(jumps)])
    first = round(Fraction(rng.choice([0, 0, 0.9, 60])) * rate)
    aspects = [
        Fraction(1),
        Fraction(1),
        Fraction(4, 3),
        Fraction(16, 11),
        Fraction(1, 2),
    ]
    aspect = aspects[rng.integers(len(aspects))]
    if suffix in (
        "webm",
        "flv",
        "wmv",
        "mpg",
    ):  # PyAV writes no pixel aspect into these
        aspect = Fraction(1)
    codec, options = CODECS[suffix]
    path = str(folder / f"film.{suffix}")
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = options | ({} if codec == "libx264" else {"b": "2000000"})
        stream.codec_context.sample_aspect_ratio = aspect
        stream.codec_context.time_base = 1 / rate
        for number, tick in enumerate(ticks.tolist()):
            picture = coded(number, height, width)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = first + tick, 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    turn = EIGHTH_TURNS[0]
    if suffix in ("mp4", "mov"):
        turn = EIGHTH_TURNS[rng.integers(len(EIGHTH_TURNS))]
        write_matrix(path, turn)
    times = ticks / float(rate)
    return Film(path, times, times[-1] + 1 / float(rate), aspect, turn, (height, width))


def write_matrix(path, turn):
    """Write a display matrix into the track header of an MP4 file."""
    content = bytearray(Path(path).read_bytes())
    place = content.find(b"tkhd") + 4 + 40
    a, b, c, d = (x << 16 for x in turn)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    Path(path).write_bytes(content)


def on_screen(film, times, slack):
    """(earliest, latest) numbers of the frames on screen at `times`: they differ where a
    time is within a container's rounding of a frame's.
    """
    return tuple(
        np.searchsorted(film.times, np.asarray(times) + d, side="right").clip(1) - 1
        for d in (-slack, slack)
    )


def shown_size(film):
    """(height, width) on a screen with square pixels."""
    height, width = film.size
    sides = height, round(width * film.aspect)
    return sides[::-1] if film.turn[0] == 0 else sides


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """{suffix: FILMS random films}; seeds are printed where a test fails."""
    found = {}
    for suffix in CODECS:
        for case in range(FILMS):
            seed = [case, *suffix.encode()]
            folder = tmp_path_factory.mktemp("films")
            film = random_film(folder, np.random.default_rng(seed), suffix)
            found.setdefault(suffix, []).append((seed, film))
    return found


def read_numbers(clip, film):
    return np.array([decoded(picture, film.turn) for picture in clip])


def resize(height, width):
    return lambda image: cv2.resize(image, (64, 48))


@pytest.mark.parametrize("suffix", CODECS)
def test_clips_hold_the_frames_of_their_times(suffix, films):
    for seed, film in films[suffix]:
        print("seed", seed, film)
        rng = np.random.default_rng([*seed, 1])
        with open_video(film.path) as video:
            # MP4 sums durations in the order of decoding: a gap at the end may be left out.
            gaps = np.ptp(np.diff(film.times)) > 0.01 and suffix in ("mp4", "mov")
            least = film.end / 2 if gaps else film.end - 0.11
            assert least <= video.duration <= film.end + 0.11
            assert video.frames_at([0.0]).shape[1:3] == shown_size(film)
            for _ in range(9):
                fps, frames = rng.choice([1, 4, 7.3, 12.5, 25, 60]), rng.integers(1, 12)
                start = rng.uniform(0, film.end)
                if rng.random() < 0.4:  # exactly when a frame begins
                    start = rng.choice(film.times)
                times = start + np.arange(frames) / fps
                clip, distinct = video.distinct_frames_at(times, resize)
                numbers = read_numbers(clip, film)
                low, high = on_screen(film, times, SLACK[suffix])
                assert ((low <= numbers) & (numbers <= high)).all(), (times, numbers)
                assert distinct == len(set(numbers.tolist()))


@pytest.mark.parametrize("suffix", CODECS)
def test_prepared_clips_hold_what_direct_reading_gives(suffix, films):
    for seed, film in films[suffix]:
        print("seed", seed, film)
        rng = np.random.default_rng([*seed, 2])
        recipe = Recipe(
            size=48, fps=float(rng.choice([2, 8, 15])), seconds=1.5, min_seconds=0.5
        )
        upright = film._replace(turn=EIGHTH_TURNS[0])
        count = 0
        with open_video(film.path) as video:
            for clip in cut_clips(film.path, recipe):
                times = clip.start + np.arange(clip.frames) / clip.fps
                direct = read_numbers(video.frames_at(times, resize), film)
                assert (clip.height, clip.width) == target_shape(*shown_size(film), 48)
                whole = decode_clip(clip.video, 0, clip.fps, clip.frames)
                whole = [undone(picture, film.turn) for picture in whole]
                prepared = read_numbers(whole, upright)
                np.testing.assert_array_equal(prepared, direct)
                low, high = on_screen(film, times, SLACK[suffix])
                assert ((low <= prepared) & (prepared <= high)).all(), (times, prepared)
                count += clip.frames
        # All of the film, up to an end that is shorter than min_seconds.
        assert count / clip.fps > film.end - recipe.min_seconds - 0.2


def test_batches_hold_the_frames_of_their_times(films, tmp_path):
    known = {}
    for suffix, pairs in films.items():
        for case, (_, film) in enumerate(pairs):
            (tmp_path / f"{case}.{suffix}").symlink_to(film.path)
            known[f"{case}.{suffix}"] = film
    whole_frames = {"scale": (1, 1), "aspect": (0.05, 20), "flip": False}
    view = View(frames=6, fps=5.0, size=48, **whole_frames)
    videos = VideoFolder(str(tmp_path), view)
    source = make_source(videos, batch=len(known), seed=7, shuffle=False)
    batch = source.next()
    repeated = 0
    for position, clip in enumerate(batch["video"]):
        film = known[videos.name(position)]
        numbers = read_numbers(clip, film)
        repeated += len(set(numbers.tolist())) < view.frames
        start = np.random.default_rng([7, 0, 0, position]).uniform()
        # The start is a share of the spare time; containers round how long a film is.
        spare = (
            np.linspace(film.end / 2, film.end + 0.11, 1000) - view.frames / view.fps
        )
        times = start * spare.clip(0)[:, None] + np.arange(view.frames) / view.fps
        low, high = on_screen(film, times, SLACK[film.path.rpartition(".")[2]])
        assert ((low <= numbers) & (numbers <= high)).all(1).any(), (film, numbers)
    assert source.report()["numbers"] == {"repeated_frames": repeated}
    assert source.get_state()["repeated_frames"] == repeated > 0
    source.close()
