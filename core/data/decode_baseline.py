"""Decoding by PyAV alone: what a pipeline of videos cannot be faster than."""

import io
import time

import av
import numpy as np

from core.data.clips import View

SLACK = 1e-3  # seconds: containers round


def seconds_per_clip(records, view: View, *, clips: int, seed: int = 0) -> float:
    """Processor time that the wanted frames of a clip take to decode into RGB.

    records: with encoded(index), the path or bytes of a video file.
    """
    rng, spent = np.random.default_rng(seed), 0.0
    for index in rng.integers(len(records), size=clips):
        source = records.encoded(int(index))
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        moment = rng.uniform()
        begin = time.process_time()
        decode(file, view, moment)
        spent += time.process_time() - begin
    return spent / clips


def decode(file, view: View, moment: float):
    """Decode a stretch that begins at a share `moment` of where it may begin."""
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        tick, zero = float(stream.time_base), stream.start_time or 0
        length = (stream.duration or 0) * tick or container.duration / av.time_base
        start = moment * max(0.0, length - view.frames / view.fps)
        times = start + np.arange(view.frames) / view.fps
        container.seek(zero + int(start / tick), stream=stream)
        shown = 0
        for frame in container.decode(stream):
            now = (frame.pts - zero) * tick + SLACK
            while shown < view.frames and times[shown] <= now:
                rgb(frame)
                shown += 1
            if shown == view.frames:
                return


def rgb(frame) -> np.ndarray:
    # With more than one thread it would cost more, and be no sooner done.
    return frame.reformat(format="rgb24", threads=1).to_ndarray()
