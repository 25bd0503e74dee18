"""Which stream of a container holds the video, how long it is, and seeking in it."""

import av
from av.stream import Disposition

from core.data.records import BadSample

# Containers round durations, and sound may be longer than the video. A file whose last
# frame ends earlier than this before its stated end is truncated.
GRACE_SECONDS = 1.0
TAIL_SECONDS = 10.0  # of the file whose packets are read to find its end
# Formats of FFmpeg whose stated end counts from time 0, not from the first frame.
ENDS_FROM_ZERO = ("matroska,webm", "asf")
ESTIMATED = ("mpeg", "mpegts")  # FFmpeg guesses durations from the bit rate


def best_stream(container):
    """FFmpeg's best video stream, but never a cover picture. Raises BadSample if none."""
    known = [stream for stream in container.streams.video if not is_cover(stream)]
    if not known:
        raise BadSample("no video stream")
    best = container.streams.best("video")
    return known[0] if best is None or is_cover(best) else best


def is_cover(stream) -> bool:
    """Whether a video stream is the cover picture of a sound file."""
    return bool(stream.disposition & Disposition.attached_pic)


def first_tick(stream) -> int:
    """The time stamp of the first frame, in ticks of the stream."""
    return stream.start_time or 0


def seek(container, stream, time: float) -> bool:
    """Go to a packet from which the frame at `time` in seconds should be decodable.

    Returns whether the container found one.
    """
    try:
        container.seek(first_tick(stream) + int(time / stream.time_base), stream=stream)
    except av.FFmpegError:
        return False
    return True


def rewind(container, stream):
    """Go to the first packet."""
    # Forward from 0: formats differ in what a time before the first packet means, and in
    # whether the first packet is before the first frame.
    container.seek(min(0, first_tick(stream)), stream=stream, backward=False)


def stream_seconds(container, stream) -> float:
    """Seconds from the first frame to the end of the last one.

    As stated by the container for this stream, else measured at the end of the file.
    Raises BadSample if there are no frames.
    """
    kind = container.format.name
    first = float(first_tick(stream) * stream.time_base)
    stated, own = stated_end(container, stream)
    if kind in ENDS_FROM_ZERO and first > 0 and stated:
        # Some writers state the length here instead of the end.
        stated, own = stated - first if stated > first else stated, False
    if own and kind not in ESTIMATED:
        return stated
    end, last = measured_ends(container, stream, stated)
    is_cut = stated and kind not in ESTIMATED and last + GRACE_SECONDS < stated
    return stated if is_cut else end


def stated_end(container, stream):
    """(seconds or None, whether they are of this stream), from the headers."""
    if stream.duration:
        return float(stream.duration * stream.time_base), True
    if "DURATION" in stream.metadata:  # Matroska, written by FFmpeg
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds), True
    length = container.duration
    return (length / av.time_base if length else None), False


def measured_ends(container, stream, stated):
    """Seconds from the first frame to the ends of this stream and of all streams.

    stated: seconds near the end from which packets are read; None: all are read. Raises
    BadSample if the stream has no packets.
    """
    if stated and stated > TAIL_SECONDS:
        if not seek(container, stream, stated - TAIL_SECONDS):
            rewind(container, stream)
    end, last = packet_ends(container, stream)
    if not end and stated:
        rewind(container, stream)
        end, last = packet_ends(container, stream)
    rewind(container, stream)
    if not end:
        raise BadSample("no frames")
    return end, last


def packet_ends(container, stream):
    """`measured_ends` of the packets from here on; zeros if there are none."""
    end = last = 0.0
    rate = float(stream.average_rate or 0)
    for packet in container.demux():
        if packet.pts is None:
            continue
        length = float((packet.duration or 0) * packet.time_base)
        is_ours = packet.stream.index == stream.index
        length = length or (1 / rate if is_ours and rate else 0.0)
        first = first_tick(stream) * stream.time_base
        until = float(packet.pts * packet.time_base - first) + length
        end, last = max(end, until) if is_ours else end, max(last, until)
    return end, last
