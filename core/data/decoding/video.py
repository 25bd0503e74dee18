"""Decodes the frames of a video that are on screen at given times.

Time 0 is the first frame of FFmpeg's best video stream. The frame on screen at a time is the
last one that is not later, where times within half a tick of the container (at most 1 ms) are
equal. Frames have square pixels and are upright.
"""

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Iterator

import av
import numpy as np

from core.data.decoding import streams
from core.data.decoding.damage import explain_unreadable
from core.data.decoding.frames import frame_planes, frame_rgb
from core.data.records import BadSample

SUFFIXES = (
    ".3gp",
    ".avi",
    ".flv",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ts",
    ".webm",
    ".wmv",
)

MOST_PIXELS = 2**26  # per frame: 200 MB as RGB
# Seconds before the wanted time to which a reader seeks until a frame is early enough. The
# first times after a seek in an MPEG program stream are guesses, wrong by up to 0.1 s.
SEEK_BACK = {"mpeg": (4.0, 16.0)}
BACK_SECONDS = 1.0  # by which time stamps may go back; such frames are not shown
USUAL_SEEK_BACK = (0.0, 2.0, 8.0)


def decode_clip(source, start, fps, frames, make_view=None) -> np.ndarray:
    """Decode `frames` frames, those on screen at start, start + 1 / fps, ... seconds.

    source: as in `open_video`. start: seconds from the beginning. Beyond the end the last
    frame is repeated. make_view: None for whole frames, or
    (height, width) -> function that crops a frame, such as clips.make_crop gives; frames
    are cropped as they are decoded, so that only crops are held in memory.

    Returns uint8 [frames, H, W, 3], or crops.
    Raises BadSample if the file is missing, truncated, corrupt or has no video.
    """
    with open_video(source) as reader:
        return reader.frames_at(start + np.arange(frames) / fps, make_view)


@contextlib.contextmanager
def open_video(source) -> Iterator["Reader"]:
    """A Reader of a path, the bytes of a file, or an open file.

    Errors inside become BadSample.
    """
    try:
        with av.open(as_file(source)) as container:
            try:
                reader = Reader(container)
            except (
                BadSample
            ) as error:  # such as no video stream in what is left of a file
                raise BadSample(explain_unreadable(source, error)) from None
            yield reader
    except (av.FFmpegError, OSError, ValueError, LookupError, MemoryError) as error:
        raise BadSample(explain_unreadable(source, error)) from error


def as_file(source):
    """What PyAV opens for a path, the bytes of a file, or an open file."""
    if isinstance(source, (str, os.PathLike)):
        return f"file:{source}"
    return io.BytesIO(source) if isinstance(source, bytes) else source


class Reader:
    """The best video stream of an open container.

    duration: seconds. rate: mean frames per second, 0 if unknown. aspect: width / height
    of a stored pixel. height and width of `stream` are before stretching and rotation.
    """

    def __init__(self, container):
        self.container, self.stream = container, streams.best_stream(container)
        if self.stream.codec_context is None:
            raise BadSample("unknown video codec")
        # More threads cost 20-25 % more CPU per clip, and can deadlock with PyAV's log.
        self.stream.thread_type = "NONE"
        self.stream.codec_context.thread_count = 1
        self.tick = float(self.stream.time_base)
        self.zero = streams.first_tick(self.stream)
        self.rate = float(self.stream.average_rate or 0)
        self.aspect = float(self.stream.sample_aspect_ratio or 1)
        if self.stream.height * self.stream.width * max(1, self.aspect) > MOST_PIXELS:
            size = f"{self.stream.width} x {self.stream.height}"
            raise BadSample(f"frames of {size} pixels; the limit is 8192 x 8192")
        self.moved = False  # whether frames were decoded
        self.duration = streams.stream_seconds(container, self.stream)

    def count(self) -> int:
        """Frames of the whole file, from its packets, without decoding."""
        packets = self.container.demux(self.stream)
        frames = sum(packet.pts is not None for packet in packets)
        streams.rewind(self.container, self.stream)
        return frames

    def frames_at(
        self, times, make_view: Callable | None = None, planar=False
    ) -> np.ndarray:
        """The frames on screen at the rising `times` in seconds: uint8 [T, H, W, 3].

        Beyond the end the last frame is repeated. make_view: (height, width) -> function
        that crops a frame. planar: the function gets the planes of decoding/planar.py,
        brightness [H, W] and two color differences [H / 2, W / 2], instead of RGB.
        Returns [T, ...] of what the function gives.
        """
        return self.distinct_frames_at(times, make_view, planar)[0]

    def distinct_frames_at(
        self, times, make_view: Callable | None = None, planar=False
    ) -> tuple[np.ndarray, int]:
        """(what `frames_at` returns, number of different frames of the video in it)."""
        found, done, size, view, distinct = None, 0, None, None, 0
        for frame, until in self._shown(times[0]):
            upto = int(np.searchsorted(times, until))
            if upto <= done:
                continue
            if until == np.inf:
                self._check_complete(frame, times[-1])
            image = (frame_planes if planar else frame_rgb)(frame, self.aspect)
            before, size = size, image[0].shape if planar else image.shape[:2]
            _check_size(size, before)
            view = view or (make_view(*size) if make_view else np.asarray)
            image = view(image)
            if found is None:
                found = np.empty((len(times), *image.shape), np.uint8)
            found[done:upto] = image
            done, distinct = upto, distinct + 1
            if done == len(times):
                break
        return found, distinct

    def timed_frames(self, start) -> Iterator[tuple]:
        """(seconds, decoded frame) in order of time, from a frame at or before `start` on."""
        for frame in self._decode(max(0.0, start), 0.0):
            yield self._time(frame), frame

    def picture(self, frame) -> np.ndarray:
        """A decoded frame as RGB: uint8 [H, W, 3]."""
        return frame_rgb(frame, self.aspect)

    def sampled(self, fps) -> Iterator[np.ndarray]:
        """All frames at `fps` frames per second, one by one: uint8 [H, W, 3]."""
        count, size = 0, None
        for frame, until in self._shown(0.0):
            if until == np.inf:
                self._check_complete(frame, self.duration)
                until = self._time(frame) + self._length(frame)
            ticks = int(np.ceil(until * fps - 1e-6)) - count
            if ticks <= 0:
                continue
            image, before = frame_rgb(frame, self.aspect), size
            count += ticks
            size = image.shape[:2]
            _check_size(size, before)
            for _ in range(ticks):
                yield image

    def _shown(self, start):
        """(frame, time at which the next one replaces it) from `start` seconds on."""
        # A time that a container rounded up still belongs to its frame.
        slack = min(self.tick / 2, 1e-3) + 1e-6
        before, shown = None, -np.inf
        for frame in self._decode(start, slack):
            time = self._time(frame)
            if time < shown - BACK_SECONDS:
                raise BadSample(
                    f"time goes back from {shown:.1f} s to {time:.1f} s; join its parts anew"
                )
            if time < shown:  # never the last one that is not later
                continue
            if before is not None:
                yield before, time - slack
            before, shown = frame, time
        if before is None:
            raise BadSample("no frames")
        yield before, np.inf

    def _decode(self, start, slack):
        """Decoded frames in order of time; the first is at or before `start`."""
        for frame in self._frames_from(start, slack):
            # Of 60 files with one flipped bit, 59 decode without an error, and FFmpeg marks
            # 52 of them as corrupt. Only a checksum would find the others.
            if frame.is_corrupt:
                raise BadSample(f"corrupt frame at {self._time(frame):.1f} s")
            yield frame

    def _frames_from(self, start, slack):
        """Decoded frames; the first is at or before `start`, if there is one."""
        moved, self.moved = self.moved, True
        steps = SEEK_BACK.get(self.container.format.name, USUAL_SEEK_BACK)
        for back in (x for x in steps if x < start):
            if not streams.seek(self.container, self.stream, start - back):
                continue
            frames = self.container.decode(self.stream)
            first = next(frames, None)
            if first is not None and self._time(first) <= start + slack:
                return itertools.chain([first], frames)
        if start > 0 or moved:  # > 0: the container has no index, or a bad one
            streams.rewind(self.container, self.stream)
        return self.container.decode(self.stream)

    def _length(self, frame):
        """Seconds that a frame is shown, if it is the last one."""
        return (frame.duration or 0) * self.tick or 1 / (self.rate or 1 / self.tick)

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
        if end + streams.GRACE_SECONDS < min(time, self.duration):
            raise BadSample(
                f"is cut: ends at {end:.1f} s of {self.duration:.1f} s; copy it again"
            )


def _check_size(size, before):
    """Raise BadSample if a frame differs in size from the one before."""
    if before and size != before:
        raise BadSample(f"frame size changes from {before} to {size}")
