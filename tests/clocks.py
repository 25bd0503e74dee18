"""Test videos: the brightness of a frame encodes its number. Intact and broken files."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from core.data.decoding.video import open_video

STEADY = np.arange(30) / 10
# From 20 to 2 frames per second, with one frame that is shown for a second.
UNEVEN = np.cumsum([0.0] + [0.05] * 12 + [0.1] * 8 + [1.0] + [0.5] * 4 + [0.05] * 4)
CODECS = {
    "mp4": ("libx264", {"g": "12"}),
    "mov": ("libx264", {"g": "250"}),
    "mkv": ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "avi": ("mpeg4", {"g": "12", "b": "1000000"}),
}


def write(path, images, times, *, pix_fmt="yuv420p", codec=None, **container_options):
    """Encode RGB images, each shown from its time (s) on; the suffix chooses the codec."""
    suffix = str(path).rpartition(".")[2]
    codec, options = (codec, {}) if codec else CODECS[suffix]
    # AVI has a constant frame rate; the others get MPEG's usual clock.
    rate, tick = (20, Fraction(1, 20)) if suffix == "avi" else (10, Fraction(1, 90_000))
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.options = pix_fmt, options
        stream.codec_context.time_base = tick
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def write_clock(path, times, **options):
    """A video in which the brightness of a frame encodes its number."""
    grays = [np.full((48, 64, 3), 20 + 7 * i, np.uint8) for i in range(len(times))]
    return write(path, grays, times, **options)


def read_clock(video):
    """Numbers of the frames of a clip [T, H, W, 3] by their brightness: [T]."""
    return np.round((video.mean((1, 2, 3)) - 20) / 7).astype(int)


class Facts(NamedTuple):
    duration: float  # seconds
    fps: float  # mean
    frames: int
    height: int  # as stored, before rotation
    width: int


def probe(path) -> Facts:
    """The facts of a video file, from its headers where they have them."""
    with open_video(path) as reader:
        stream = reader.stream
        frames = stream.frames or reader.count()
        fps = reader.rate or frames / reader.duration
        return Facts(reader.duration, fps, frames, stream.height, stream.width)


def break_truncated(tmp_path, suffix, share=0.6, **options):
    path = Path(write_clock(tmp_path / f"whole.{suffix}", STEADY, **options))
    content = path.read_bytes()
    broken = tmp_path / f"cut.{suffix}"
    broken.write_bytes(content[: int(len(content) * share)])
    return broken


def break_rotten(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    path = Path(write(tmp_path / "rotten.mp4", noise, STEADY))
    content = bytearray(path.read_bytes())
    start = content.find(b"mdat") + 2000
    for i in range(start, start + 9000, 300):
        content[i] ^= 0xFF
    path.write_bytes(content)
    return path


def break_silent(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def break_text(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("this is no video\n" * 100)
    return path


def break_empty(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    return path
