"""Time of decoding with PyAV alone: a lower bound for a pipeline that reads videos."""

import io
import time

import av
import numpy as np

from core.data.clips import View
from core.data.decoding import streams

SLACK = 1e-3  # seconds: containers round times


def seconds_per_clip(records, view: View, *, clips: int, seed: int = 0) -> float:
    """CPU seconds to decode the frames of a clip into RGB, the mean over `clips` clips.

    records: `encoded(index)` gives the path or bytes of a video file.
    """
    rng, spent = np.random.default_rng(seed), 0.0
    for index in rng.integers(len(records), size=clips):
        source = records.encoded(int(index))
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        moment = rng.uniform()
        begin = time.process_time()
        decode_frames(file, view, moment)
        spent += time.process_time() - begin
    return spent / clips


def decode_frames(file, view: View, moment: float):
    """Decode the frames of a clip. moment: 0 for the earliest start, 1 for the latest."""
    with av.open(file) as container:
        stream = streams.best_stream(container)
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        tick, zero = float(stream.time_base), streams.first_tick(stream)
        length = streams.stream_seconds(container, stream)
        start = moment * max(0.0, length - view.frames / view.fps)
        times = start + np.arange(view.frames) / view.fps
        streams.seek(container, stream, start)
        shown = 0
        for frame in container.decode(stream):
            now = (frame.pts - zero) * tick + SLACK
            while shown < view.frames and times[shown] <= now:
                to_rgb(frame)
                shown += 1
            if shown == view.frames:
                return


def to_rgb(frame) -> np.ndarray:
    # More threads cost more CPU time and are no faster.
    return frame.reformat(format="rgb24", threads=1).to_ndarray()
