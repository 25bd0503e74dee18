"""Cuts one video into clips at a constant frame rate, encoded for fast decoding."""

import dataclasses
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np

from core.data.decoding.video import open_video
from core.data.records import BadSample
from core.prepare.near_duplicates import fingerprint

cv2.setNumThreads(0)  # the processes are the parallelism
SMALL = 32  # pixels per side of the gray frames for motion and fingerprint


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How videos become clips.

    size: pixels of the short side, and fps: frames per second; never more than the video
    has. seconds: length of a clip; min_seconds: least length of the last clip of a video.
    crf: x264's quality, lower is better. keyframe: frames from one keyframe to the next;
    a reader decodes from the keyframe before its start. Raises ValueError.
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
    """A clip of a video: the bytes of an mp4 file, and facts about it."""

    video: bytes
    start: float  # seconds in the source
    end: float
    fps: float
    frames: int
    height: int
    width: int
    motion: float  # mean change of brightness (0..1) per second
    fingerprint: str  # perceptual hash: similar clips have similar hashes


def cut_clips(source, recipe: Recipe) -> Iterator[Clip]:
    """Yield the clips of a video, a source of open_video. Raises BadSample at damage."""
    with open_video(source) as video:
        fps = min(recipe.fps, video.rate or recipe.fps)
        length, least = round(recipe.seconds * fps), round(recipe.min_seconds * fps)
        shape, first, writer = None, 0, None
        for image in video.sampled(fps):
            shape = shape or target_shape(*image.shape[:2], recipe.size)
            writer = writer or ClipWriter(shape, fps, recipe)
            writer.add(image)
            if writer.frames == max(1, length):
                yield writer.finish(first / fps)
                first, writer = first + length, None
        if writer and writer.frames >= least:
            yield writer.finish(first / fps)
        elif first == 0:
            raise BadSample(f"shorter than {recipe.min_seconds:g} s")


def target_shape(height, width, size) -> tuple[int, int]:
    """(height, width) with a short side of `size`, never enlarged, both even."""
    scale = min(1.0, size / min(height, width))
    return tuple(max(2, 2 * round(x * scale / 2)) for x in (height, width))


class ClipWriter:
    """Encodes frames one by one as H.264 in mp4. shape: (height, width)."""

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
            # No arithmetic coding and no deblocking: half the decoding time.
            "tune": "fastdecode",
            # mbtree makes the output of x264 differ from run to run for short clips.
            "x264-params": "mbtree=0",
        }
        self.stream.codec_context.thread_count = 1

    def add(self, image):
        """Append a frame, uint8 RGB [H, W, 3]; it is resized."""
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
        """Close the file. start: seconds of the first frame in the source."""
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
