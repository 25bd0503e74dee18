"""Cuts one video into clips on a steady grid of time, encoded so that they decode fast."""

import dataclasses
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np

from core.data.records import BadSample
from core.data.video import open_video
from core.prepare.near_duplicates import fingerprint

cv2.setNumThreads(0)  # the files are the parallelism
SMALL = 32  # pixels of the gray frames that are compared with each other


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How videos become clips.

    size: pixels of the short side, if the video has as many. fps: frames per second, if
    the video has as many. seconds, min_seconds: length of a clip, and of the last one of
    a video. crf: x264's constant quality; keyframe: frames from one to the next, few of
    which must be decoded to begin anywhere.
    """

    size: int = 256
    fps: float = 8.0
    seconds: float = 10.0
    min_seconds: float = 2.0
    crf: int = 23
    keyframe: int = 16

    def __post_init__(self):
        for name, least in {"size": 16, "fps": 0.1, "crf": 0, "keyframe": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; use {least} or more"
                )
        if not 0 < self.min_seconds <= self.seconds:
            raise ValueError(
                f"min_seconds is {self.min_seconds}; use more than 0 and at most "
                f"seconds, {self.seconds}"
            )


class Clip(NamedTuple):
    """A piece of a video: the bytes of an mp4 file, and what is known of it."""

    video: bytes
    start: float  # seconds in the source
    end: float
    fps: float
    frames: int
    height: int
    width: int
    motion: float  # mean change of brightness per second, of a range of 1
    fingerprint: str  # alike for pictures that look alike


def cut(source, recipe: Recipe) -> Iterator[Clip]:
    """The clips of a video, a path or bytes; what is bad ends them with a BadSample."""
    with open_video(source) as video:
        fps = min(recipe.fps, video.rate or recipe.fps)
        length, least = round(recipe.seconds * fps), round(recipe.min_seconds * fps)
        shape, begin, writer = None, 0, None
        for image in video.sampled(fps):
            shape = shape or target_shape(*image.shape[:2], video.aspect, recipe.size)
            writer = writer or Writer(shape, fps, recipe)
            writer.add(image)
            if writer.frames == max(1, length):
                yield writer.finish(begin / fps)
                begin, writer = begin + length, None
        if writer and writer.frames >= least:
            yield writer.finish(begin / fps)
        elif begin == 0:
            raise BadSample(f"shorter than {recipe.min_seconds:g} s")


def target_shape(height, width, aspect, size) -> tuple[int, int]:
    """Height and width for a short side of `size`, never enlarged, both even.

    aspect: width of a stored pixel over its height.
    """
    width *= aspect
    scale = min(1.0, size / min(height, width))
    return tuple(max(2, 2 * round(x * scale / 2)) for x in (height, width))


class Writer:
    """Encodes frames as H.264 in mp4 while they come."""

    def __init__(self, shape, fps, recipe):
        self.shape, self.fps = shape, fps
        self.frames, self.small = 0, []
        self.file = io.BytesIO()
        self.container = av.open(self.file, "w", format="mp4")
        rate = Fraction(fps).limit_denominator(1001)
        self.stream = self.container.add_stream("libx264", rate=rate)
        self.stream.height, self.stream.width = shape
        self.stream.pix_fmt = "yuv420p"
        self.stream.options = {
            "crf": str(recipe.crf),
            "g": str(recipe.keyframe),
            # No arithmetic coding and no deblocking: half the time to decode.
            "tune": "fastdecode",
            # With its tree over macroblocks x264 writes short clips anew in every run.
            "x264-params": "mbtree=0",
        }
        self.stream.codec_context.thread_count = 1

    def add(self, image):
        image = cv2.resize(image, self.shape[::-1], interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        self.small.append(
            cv2.resize(gray, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
        )
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = self.frames
        self.container.mux(self.stream.encode(frame))
        self.frames += 1

    def finish(self, start) -> Clip:
        self.container.mux(self.stream.encode())
        self.container.close()
        small = np.stack(self.small).astype(np.float32)
        changes = np.abs(np.diff(small, axis=0))
        motion = float(changes.mean()) * self.fps / 255 if len(changes) else 0.0
        return Clip(
            video=self.file.getvalue(),
            start=start,
            end=start + self.frames / self.fps,
            fps=self.fps,
            frames=self.frames,
            height=self.shape[0],
            width=self.shape[1],
            motion=motion,
            fingerprint=fingerprint(small),
        )
