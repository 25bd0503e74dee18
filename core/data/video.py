"""Decodes the frames of a video that are on screen at given times."""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator

import av
import numpy as np
from av.stream import Disposition

from core.data.planar import rgb_to_planes
from core.data.records import BadSample, explain

SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")

# Containers round durations, and sound may be longer than the video. A file whose last
# frame ends earlier than this before its stated end is truncated.
GRACE_SECONDS = 1.0
MOST_PIXELS = 2**26  # per frame: 200 MB as RGB
# FFmpeg's numbers for BT.601 in limited range; "unspecified" (2 and 0) is taken for it.
USUAL_COLORSPACES = (2, 5, 6)
USUAL_RANGES = (0, 1)


def decode_clip(source, start, fps, frames, make_view=None) -> np.ndarray:
    """Decode `frames` frames, those on screen at start, start + 1 / fps, ... seconds.

    source: a path, or the bytes of a file. start: seconds from the beginning. Beyond the
    end the last frame is repeated. make_view: None for whole frames, or
    (height, width) -> function that crops a frame, such as clips.make_crop gives; frames
    are cropped as they are decoded, so that only crops are held in memory.

    Returns uint8 [frames, H, W, 3], upright (a phone's rotation is applied), or crops.
    Raises BadSample if the file is missing, truncated, corrupt or has no video.
    """
    with open_video(source) as reader:
        return reader.frames_at(start + np.arange(frames) / fps, make_view)


@contextlib.contextmanager
def open_video(source) -> Iterator["Reader"]:
    """A Reader of a path or of the bytes of a file; errors inside become BadSample."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
        with av.open(file) as container:
            yield Reader(container)
    except (av.FFmpegError, OSError, ValueError, LookupError, MemoryError) as error:
        raise BadSample(explain(error)) from error


class Reader:
    """The first video stream of an open container.

    duration: seconds. rate: mean frames per second, 0 if unknown. aspect: width / height
    of a stored pixel. height and width of `stream` are before rotation.
    """

    def __init__(self, container):
        streams = [s for s in container.streams.video if not _is_cover(s)]
        if not streams:
            raise BadSample("no video stream")
        self.container, self.stream = container, streams[0]
        if self.stream.codec_context is None:
            raise BadSample("unknown video codec")
        # More threads cost 20-25 % more CPU per clip, and can deadlock with PyAV's log.
        self.stream.thread_type = "NONE"
        self.stream.codec_context.thread_count = 1
        self.tick = float(self.stream.time_base)
        self.zero = self.stream.start_time or 0
        self.duration = self._duration()
        self.rate = float(self.stream.average_rate or 0)
        self.aspect = float(self.stream.sample_aspect_ratio or 1)
        if self.stream.height * self.stream.width > MOST_PIXELS:
            size = f"{self.stream.width} x {self.stream.height}"
            raise BadSample(f"frames of {size} pixels; the limit is 8192 x 8192")

    def _duration(self):
        if self.stream.duration:
            return self.stream.duration * self.tick
        if "DURATION" in self.stream.metadata:  # Matroska, written by FFmpeg
            hours, minutes, seconds = self.stream.metadata["DURATION"].split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if self.container.duration:
            return self.container.duration / av.time_base
        return self.count()[1]  # a streamed recording states no duration

    def count(self) -> tuple[int, float]:
        """(frames, seconds) of the whole file, from its packets, without decoding."""
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
        """The frames on screen at the rising `times` in seconds: uint8 [T, H, W, 3].

        Beyond the end the last frame is repeated. make_view: (height, width) -> function
        that crops a frame. planar: the function gets the planes of core/data/planar.py,
        brightness [H, W] and two color differences [H / 2, W / 2], instead of RGB.
        Returns [T, ...] of what the function gives.
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

    def timed_frames(self, start) -> Iterator[tuple]:
        """(seconds, decoded frame) in order of time, from a frame at or before `start` on."""
        for frame in self._decode(max(0.0, start), self.tick / 2):
            yield self._time(frame), frame

    def picture(self, frame) -> np.ndarray:
        """A decoded frame as RGB: uint8 [H, W, 3]."""
        return _rgb(frame)

    def sampled(self, fps) -> Iterator[np.ndarray]:
        """All frames at `fps` frames per second, one by one: uint8 [H, W, 3]."""
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
        """(frame, time at which the next one replaces it) from `start` seconds on."""
        # A time that a container rounded up still belongs to its frame.
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
        """Decoded frames in order of time; the first is at or before `start`."""
        if start > 0:
            self.container.seek(self.zero + int(start / self.tick), stream=self.stream)
        frames = self.container.decode(self.stream)
        first = next(frames, None)
        late = first is None or self._time(first) > start + slack
        if start > 0 and late:  # a bad index: read from the beginning
            self.container.seek(0)
            frames = self.container.decode(self.stream)
        elif first is not None:
            frames = itertools.chain([first], frames)
        for frame in frames:
            # Of 60 files with one flipped bit, 59 decode without an error, and FFmpeg marks
            # 52 of them as corrupt. Only a checksum would find the others.
            if frame.is_corrupt:
                raise BadSample(f"corrupt frame at {self._time(frame):.1f} s")
            yield frame

    def _time(self, frame):
        # AVI has no presentation times, and those that FFmpeg makes up are out of order.
        # Decoding times are in order, and late by the few frames of the decoder's delay.
        is_avi = self.container.format.name == "avi"
        stamp = frame.dts if is_avi else frame.pts
        if stamp is None:
            raise BadSample("frame without a time stamp")
        return (stamp - self.zero) * self.tick

    def _check_complete(self, last, time):
        """Raise BadSample if the last frame ends long before `time` and the stated end."""
        end = self._time(last) + (last.duration or 0) * self.tick
        if end + GRACE_SECONDS < min(time, self.duration):
            raise BadSample(f"ends at {end:.1f} s of {self.duration:.1f} s")


def _is_cover(stream):
    """Whether a video stream is the cover picture of a sound file."""
    return bool(stream.disposition & Disposition.attached_pic)


def _check_size(size, before):
    """Raise BadSample if a frame differs in size from the one before."""
    if before and size != before:
        raise BadSample(f"frame size changes from {before} to {size}")


def _planes(frame):
    """Brightness and color differences of a decoded frame, upright (core/data/planar.py)."""
    if not _is_plain(frame):
        return rgb_to_planes(_rgb(frame))
    sides = [(frame.height >> k, frame.width >> k) for k in (0, 1, 1)]
    return tuple(
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:h, :w]
        for plane, (h, w) in zip(frame.planes, sides, strict=True)
    )


def _is_plain(frame) -> bool:
    """Whether the memory of a frame holds planes in the format of core/data/planar.py."""
    plain = frame.format.name == "yuv420p" and not frame.rotation
    even = frame.height % 2 == frame.width % 2 == 0
    usual = frame.colorspace in USUAL_COLORSPACES and frame.color_range in USUAL_RANGES
    return plain and even and usual


def _rgb(frame):
    """A decoded frame, upright: uint8 [H, W, 3]."""
    # By default swscale starts a thread per core for each frame.
    image = frame.reformat(format="rgb24", threads=1).to_ndarray()
    return np.rot90(image, frame.rotation // 90) if frame.rotation else image
