"""The frames of a video that are nearest to given times, and how near they must be."""

import dataclasses

import numpy as np

from core.data.records import BadSample

# Share of a frame interval by which rounding may change a difference of times.
MOST_ROUNDING = 0.02
# Share of a frame interval by which the stated times of an episode may miss its frames:
# concatenating videos rounds the time of each.
EDGE = 0.1


@dataclasses.dataclass(frozen=True)
class Stamps:
    """The times of the steps of an episode, and the frames of a video that may show them.

    times: seconds of each step, from the beginning of the video. interval: seconds from
    one frame to the next. tolerance: how far a frame may be from its step, in intervals.
    first, last: seconds; frames before `first`, and those at `last` and after it, are of
    other episodes (within EDGE). begin: seconds at which the episode is stated to begin;
    packed: (begin, end) if the episodes of the video, which ends at `end`, have no gaps
    between them. digits: seconds by which the times may be rounded in
    their file. file: name of the video, for errors.
    """

    times: np.ndarray
    interval: float
    tolerance: float = 0.5
    first: float = -np.inf
    last: float = np.inf
    begin: float = 0.0
    packed: tuple[float, float] | None = None
    digits: float = 0.0
    file: str = "the video"

    def outside(self) -> np.ndarray:
        """Steps too far from first..last, if the frames of the episode fill it evenly."""
        reach = self.tolerance * self.interval + self.rounding()
        end = self.last - self.interval
        far = (self.times < self.first - reach) | (self.times > end + reach)
        return np.flatnonzero(far)

    def rounding(self, tick: float = 0.0) -> float:
        """Seconds by which a time and that of a frame are rounded. tick: of the video."""
        return min(self.digits + tick / 2 + 1e-6, MOST_ROUNDING * self.interval)


def float32_digits(times) -> float:
    """Seconds by which times are rounded if they are stored as float32."""
    return float(np.spacing(np.float32(np.abs(times).max(initial=0)))) / 2


def nearest_frames(video, stamps: Stamps, part: slice, picture) -> np.ndarray:
    """The pictures of the n steps in `part`: [n, ...].

    video: core/data/decoding/video.py, Reader. picture: frame -> array. Of two frames that are
    equally near, within rounding, the earlier is taken. Raises BadSample, with the file,
    the step, its time and that of the nearest frame, if that frame is further away than
    the tolerance.
    """
    steps = np.arange(len(stamps.times))[part]
    order = np.argsort(stamps.times[steps], kind="stable")
    asked = stamps.times[steps[order]]
    slack = stamps.rounding(video.tick)
    found, done = None, 0
    for (time, frame), until in with_limits(video, stamps, asked, slack):
        upto = int(np.searchsorted(asked, until, side="right"))
        if upto <= done:
            continue
        check_near(stamps, steps[order[done:upto]], time, slack)
        shown = picture(frame)
        if found is None:
            found = np.empty((len(order), *shown.shape), shown.dtype)
        elif found.shape[1:] != shown.shape:
            was = found.shape[1:3]
            raise BadSample(f"frame size changes from {was} to {shown.shape[:2]}")
        found[order[done:upto]] = shown
        done = upto
        if done == len(asked):
            break
    check_place(stamps, video.duration, int(steps[0]))
    return found


def with_limits(video, stamps: Stamps, asked, slack):
    """Yield ((time, frame), time up to which it is the nearest) of the episode's frames.

    Raises BadSample if the episode has none.
    """
    # The reader begins with a frame at or before this time.
    begin = min(asked[0] + slack, stamps.last - stamps.interval)
    edge = EDGE * stamps.interval
    before, time = None, np.nan
    for time, frame in video.timed_frames(begin):
        if time < stamps.first - edge:
            continue
        if time >= stamps.last - edge:
            break
        if before:
            yield before, (before[0] + time) / 2 + slack
        before = time, frame
    if before is None:
        step = int(np.flatnonzero(stamps.times == asked[0])[0])
        raise BadSample(no_frame(stamps, step, time))
    yield before, np.inf


def check_place(stamps: Stamps, duration: float, step: int):
    """Raise BadSample if the episode begins elsewhere than the lengths of all those in the
    video say, and they fill it. duration: seconds of the video.
    """
    begin, end = stamps.packed or (stamps.begin, np.inf)
    full = abs(end - duration) < stamps.interval
    if full and abs(begin - stamps.begin) > stamps.interval / 2:
        raise BadSample(
            f"{stamps.file}: step {step} at {stamps.times[step]:.4f} s: its episode is "
            f"stated to begin at {stamps.begin:.4f} s, but begins at {begin:.4f} s by the "
            "lengths of those before it, which fill the video"
        )


def check_near(stamps: Stamps, steps, time, slack):
    """Raise BadSample if one of the steps is too far from the frame at `time`."""
    far = np.abs(stamps.times[steps] - time) > (
        stamps.tolerance * stamps.interval + slack
    )
    if far.any():
        step = int(steps[far].min())
        raise BadSample(no_frame(stamps, step, time))


def no_frame(stamps: Stamps, step: int, found: float) -> str:
    """The reason why a step has no picture. found: seconds of the nearest frame."""
    return (
        f"{stamps.file}: step {step} at {stamps.times[step]:.4f} s has no frame of its "
        f"episode within {stamps.tolerance:g} frame intervals; the nearest one is at "
        f"{found:.4f} s; correct its time stamps, or raise data.frame_tolerance"
    )
