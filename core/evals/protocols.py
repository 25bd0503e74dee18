"""Published protocols of evaluations on labelled videos: frames x clips x views."""

from typing import NamedTuple


class Protocol(NamedTuple):
    """frames: of a clip, one of every `frame_step` of the file. clips: of a video. views: of
    a clip.
    """

    frames: int
    frame_step: int
    clips: int
    views: int


# V-JEPA and V-JEPA 2 (arXiv 2404.08471 and 2506.09985, appendices), as in the released
# configs; ssv2_64 is that of the encoder for 384 pixels.
PROTOCOLS = {
    "k400": Protocol(16, 4, 8, 3),
    "ssv2": Protocol(16, 4, 2, 3),
    "ssv2_64": Protocol(64, 2, 2, 3),
    "coin": Protocol(16, 4, 8, 3),
    "diving48": Protocol(32, 2, 4, 3),
    "jester": Protocol(32, 2, 4, 3),
}
