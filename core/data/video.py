"""Decode the frames of a video that are on screen at given times."""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition

from core.data.planes import planes_of
from core.data.records import BadSample, explain

SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")

# Containers round, and the sound may outlast the picture. A picture that stops
# earlier than this before its announced end is a truncated file.
GRACE_SECONDS = 1.0
MOST_PIXELS = 2**26  # of a frame: as RGB, 200 MB
# FFmpeg's numbers of BT.601 in its forms, and of what is not told and taken for it.
USUAL_COLOURS = (2, 5, 6)
USUAL_RANGES = (0, 1)


class Video(NamedTuple):
    duration: float  # of the picture, in seconds
    fps: float  # on average: the rate may vary
    frames: int
    height: int  # as stored: a phone's rotation is applied by decode_clip
    width: int


def probe(path) -> Video:
    """The facts of a video file, read from its headers where they have them."""
    with open_video(path) as reader:
        stream = reader.stream
        frames = stream.frames or reader.count()[0]
        fps = float(stream.average_rate or 0) or frames / reader.duration
        return Video(reader.duration, fps, frames, stream.height, stream.width)


def decode_clip(source, start, fps, frames, make_view=None) -> np.ndarray:
    """`frames` frames of a path or of bytes, `fps` per second from `start` seconds on.

    uint8 [T, H, W, 3]; for `make_view` see Reader.frames_at.
    """
    with open_video(source) as reader:
        return reader.frames_at(start + np.arange(frames) / fps, make_view)


@contextlib.contextmanager
def open_video(source) -> Iterator["Reader"]:
    """A Reader of a path or of the bytes of a file. What goes wrong is a BadSample."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
        with av.open(file) as container:
            yield Reader(container)
    except (av.FFmpegError, OSError, ValueError, LookupError, MemoryError) as error:
        raise BadSample(explain(error)) from error


class Reader:
    """The picture of an open container."""

    def __init__(self, container):
        streams = [s for s in container.streams.video if not _is_cover(s)]
        if not streams:
            raise BadSample("no video stream")
        self.container, self.stream = container, streams[0]
        if self.stream.codec_context is None:
            raise BadSample("in a code that is not known")
        # More threads cost 20-25 % more CPU per clip, and can deadlock with PyAV's log.
        self.stream.thread_type = "NONE"
        self.stream.codec_context.thread_count = 1
        self.tick = float(self.stream.time_base)
        self.zero = self.stream.start_time or 0
        self.duration = self._duration()
        self.rate = float(self.stream.average_rate or 0)  # 0: it is not told
        self.aspect = float(self.stream.sample_aspect_ratio or 1)
        if self.stream.height * self.stream.width > MOST_PIXELS:
            size = f"{self.stream.width} x {self.stream.height}"
            raise BadSample(f"{size} pixels; more than 8192 x 8192 are not read")

    def _duration(self):
        if self.stream.duration:
            return self.stream.duration * self.tick
        if "DURATION" in self.stream.metadata:  # Matroska, written by FFmpeg
            hours, minutes, seconds = self.stream.metadata["DURATION"].split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if self.container.duration:
            return self.container.duration / av.time_base
        return self.count()[1]  # a recording that was streamed: nothing is announced

    def count(self) -> tuple[int, float]:
        """Frames and seconds, by reading the whole file without decoding it."""
        frames, end = 0, self.zero
        for packet in self.container.demux(self.stream):
            if packet.pts is not None:
                frames, end = frames + 1, max(end, packet.pts + (packet.duration or 0))
        self.container.seek(0)
        if end == self.zero:
            raise BadSample("no frames")
        return frames, (end - self.zero) * self.tick

    def frames_at(
        self, times, make_view: Callable | None = None, planar=False
    ) -> np.ndarray:
        """The frames on screen at the rising `times` (seconds): uint8 [T, H, W, 3].

        After the end the last frame stays. `make_view(height, width)` gives a function
        that crops each frame as it is kept, so that full frames do not pile up; if it is
        `planar`, it gets brightness [H, W] and colour differences [H / 2, W / 2].
        """
        found, done, size, view = None, 0, None, None
        for frame, until in self._shown(times[0]):
            upto = int(np.searchsorted(times, until))
            if upto <= done:
                continue
            if until == np.inf:
                self._check_complete(frame, times[-1])
            image = _planes(frame) if planar else _rgb(frame)
            before, size = size, image[0].shape if planar else image.shape[:2]
            _check_size(size, before)
            view = view or (make_view(*size) if make_view else np.asarray)
            image = view(image)
            if found is None:
                found = np.empty((len(times), *image.shape), np.uint8)
            found[done:upto] = image
            done = upto
            if done == len(times):
                break
        return found

    def sampled(self, fps) -> Iterator[np.ndarray]:
        """The whole video, fps frames a second, one at a time: uint8 [H, W, 3]."""
        count, size = 0, None
        for frame, until in self._shown(0.0):
            if until == np.inf:
                self._check_complete(frame, self.duration)
                until = self._time(frame) + (frame.duration or 1) * self.tick
            ticks = int(np.ceil(until * fps - 1e-6)) - count
            if ticks <= 0:
                continue
            image, count, before = _rgb(frame), count + ticks, size
            size = image.shape[:2]
            _check_size(size, before)
            for _ in range(ticks):
                yield image

    def _shown(self, start):
        """Frames from `start` on, each with the time at which the next replaces it."""
        # A time that a container has rounded up still belongs to its frame.
        slack = min(self.tick / 2, 1e-3) + 1e-6
        before = None
        for frame in self._decode(start, slack):
            if before is not None:
                yield before, self._time(frame) - slack
            before = frame
        if before is None:
            raise BadSample("no frames")
        yield before, np.inf

    def _decode(self, start, slack):
        """Frames in order of time, the first one at or before `start`."""
        if start > 0:
            self.container.seek(self.zero + int(start / self.tick), stream=self.stream)
        frames = self.container.decode(self.stream)
        first = next(frames, None)
        late = first is None or self._time(first) > start + slack
        if start > 0 and late:  # a poor index: read from the beginning
            self.container.seek(0)
            frames = self.container.decode(self.stream)
        elif first is not None:
            frames = itertools.chain([first], frames)
        for frame in frames:
            # Of 60 files with one flipped bit 59 decode without an error; FFmpeg marks
            # 52 of them here. Only a checksum would find the others.
            if frame.is_corrupt:
                raise BadSample(f"corrupt frame at {self._time(frame):.1f} s")
            yield frame

    def _time(self, frame):
        # AVI has no presentation times, and those that FFmpeg invents are out of order;
        # decoding times are in order, and late by the few frames of its delay.
        is_avi = self.container.format.name == "avi"
        stamp = frame.dts if is_avi else frame.pts
        if stamp is None:
            raise BadSample("a frame without a time stamp")
        return (stamp - self.zero) * self.tick

    def _check_complete(self, last, time):
        end = self._time(last) + (last.duration or 0) * self.tick
        if end + GRACE_SECONDS < min(time, self.duration):
            raise BadSample(f"ends at {end:.1f} s of {self.duration:.1f} s")


def _is_cover(stream):
    """Whether the `video` is the cover picture of a sound file."""
    return bool(stream.disposition & Disposition.attached_pic)


def _check_size(size, before):
    """All frames have the height and width of the one before."""
    if before and size != before:
        raise BadSample(f"frame size changes from {before} to {size}")


def _planes(frame):
    """Brightness and colour differences of a decoded frame, upright (core/data/planes.py)."""
    if not _is_plain(frame):
        return planes_of(_rgb(frame))
    sides = [(frame.height >> k, frame.width >> k) for k in (0, 1, 1)]
    return tuple(
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:h, :w]
        for plane, (h, w) in zip(frame.planes, sides, strict=True)
    )


def _is_plain(frame) -> bool:
    """Whether a frame lies in memory as nearly all of them do."""
    plain = frame.format.name == "yuv420p" and not frame.rotation
    even = frame.height % 2 == frame.width % 2 == 0
    usual = frame.colorspace in USUAL_COLOURS and frame.color_range in USUAL_RANGES
    return plain and even and usual


def _rgb(frame):
    """A decoded frame, upright: uint8 [H, W, 3]. Rows may be padded in memory."""
    # By default swscale starts a thread per core for each frame.
    image = frame.reformat(format="rgb24", threads=1).to_ndarray()
    return np.rot90(image, frame.rotation // 90) if frame.rotation else image
