"""Recordings of random geometry, rate, start, order, gaps and stamps, against their definition.

Each frame carries its own number. A step has the frame of its episode that is nearest to its
time stamp, or is refused.
"""

import itertools
import re

import numpy as np
from lerobot_sets import numbers_in, write_numbers, write_set

from core.base.files import read_json
from core.data import source_names
from core.data.decoding.nearest_frames import EDGE
from core.data.decoding.video import open_video
from core.data.records import BadSample
from core.prepare import run
from core.prepare.trajectory_pieces import TrajectoryPlan

VIDEOS, CASES = 10, 30
UNSURE = 0.045  # share of a frame interval in which rounding may decide
# Seconds by which containers round times.
ROUNDED = {"mp4": 1.2e-5, "mkv": 3.5e-4}


def make_video(path, rng):
    """A random video. Returns (frame times, frames per second)."""
    fps = float(rng.choice([5, 10, 25, 30, 50]))
    count = int(rng.integers(24, 60))
    times = np.arange(count) / fps
    if rng.random() < 0.5:  # uneven frames, and missing ones
        times = np.delete(times, rng.choice(np.arange(1, count - 1), 4, replace=False))
        times[1:] += rng.uniform(-0.3, 0.3, len(times) - 1) / fps
    sizes = rng.integers(8, 17, 2) * 2
    more = {
        "gop": int(rng.integers(1, 40)),
        "start": float(rng.choice([0, 0, 0.7, 60])),
    }
    return write_numbers(path, times, height=sizes[0], width=sizes[1], **more), fps


def make_stamps(rng, count, fps, before):
    """Random stamps of `count` steps; before: steps of the episodes before it."""
    right = np.arange(count) / fps
    kinds = {
        "right": right,
        "noise": right + rng.uniform(-0.4, 0.4, count) / fps,
        "half": right + 0.5 / fps,
        "late": right + rng.choice([0.4, 0.6, 1, 5]) / fps,
        "one_late": right + (np.arange(count) == count // 2) * 2.5 / fps,
        "backwards": right[::-1],
        "shuffled": rng.permutation(right),
        "cumulative": right + before / fps,
        "wall_clock": right + 1.7e9,
        "slow": right * 1.04,
    }
    return kinds[rng.choice(list(kinds))]


def make_episodes(rng, times, fps, old):
    """[(stamps, from_timestamp, to_timestamp)] of episodes in a video, in random order."""
    total = round(times[-1] * fps) + 1
    if old:
        counts = rng.integers(1, total + 4, 2)
        return [
            (make_stamps(rng, n, fps, 7 * k), None, None) for k, n in enumerate(counts)
        ]
    edges = np.sort(rng.choice(np.arange(total + 1), 4, replace=False))
    gaps = rng.random() < 0.7
    if not gaps:  # the episodes fill the video
        edges[0], edges[-1] = 0, total
    shift = rng.choice([0, 0, 0, 3, 500]) / fps  # past the end of the video
    found, before = [], 0
    for k in rng.permutation(3):
        first, last = edges[k] + gaps * rng.integers(0, 2), edges[k + 1]
        odd = gaps * rng.integers(-1, 3) * (rng.random() < 0.3)
        count = max(1, last - first + odd)
        stamps = make_stamps(rng, count, fps, before)
        found.append((stamps, first / fps + shift, last / fps + shift))
        before += count
    return found


def answers(times, duration, episodes, fps, kind, old, rounded):
    """The frames that may show each step of each episode: sets of numbers; -1: refused.

    A set has several answers only where rounding decides.
    """
    lengths = np.array([len(stamps) for stamps, _, _ in episodes])
    starts = np.array([begin or 0.0 for _, begin, _ in episodes])
    order = np.argsort(starts, kind="stable")
    packed = np.zeros(len(order))
    packed[order] = (np.cumsum(lengths[order]) - lengths[order]) / fps
    full = not old and abs(lengths.sum() / fps - duration) < 1 / fps
    found = []
    for number, (stamps, begin, end) in enumerate(episodes):
        ours = np.arange(len(times))
        if not old:
            edge = EDGE / fps
            ours = ours[(times >= begin - edge) & (times < end - edge)]
        asked = starts[number] + np.array([float(kind(stamp)) for stamp in stamps])
        elsewhere = full and abs(packed[number] - begin) > 0.5 / fps
        found.append(
            [
                {-1} if elsewhere else frames_near(times, ours, t, fps, rounded)
                for t in asked
            ]
        )
    return found


def frames_near(times, ours, time, fps, rounded):
    """The set for one step. ours: numbers of the episode's frames."""
    far = np.abs(times[ours] - time)
    if not len(far) or far.min() > (0.5 + UNSURE) / fps:
        return {-1}
    close = far <= far.min() + UNSURE / fps
    equal = np.ptp(far[close]) <= 2 * rounded
    shown = ours[close][:1] if equal else ours[close]
    return {*shown.tolist(), *([-1] if far.min() > 0.5 / fps + rounded else [])}


def whose(error, text=r"episode (\d+)"):
    """The number of the episode that a BadSample blames."""
    return int(re.search(text, error)[1])


def check_episode(recordings, number, allowed, counts):
    """Read a whole episode, and compare it or the step that is refused."""
    try:
        shown = numbers_in(recordings.load(number)["images_top"][:])
    except BadSample as error:
        step = whose(str(error), r"(?:mp4|mkv): step (\d+) at")
        assert -1 in allowed[step], (number, step, str(error))
        counts["refused"] += 1
        return
    assert [n in x for n, x in zip(shown, allowed, strict=True)] == [True] * len(
        shown
    ), (
        number,
        shown,
        allowed,
    )
    counts["read"] += 1


def check_window(windows, seed, allowed, counts):
    """Load a window, as batches hold it, and compare every step."""
    rng = np.random.default_rng(seed)
    index = int(rng.integers(len(windows)))
    try:
        steps = windows.load(index, rng)
    except BadSample as error:
        number = whose(error.blamed)
        stuck = "does not rise" in str(error)
        assert stuck or any(-1 in x for x in allowed[number]), (number, str(error))
        return
    where = steps["state"].astype(int)
    for (number, step), shown in zip(
        where, numbers_in(steps["images_top"]), strict=True
    ):
        assert shown in allowed[number][step], (number, step, shown)
    counts["windows"] += 1


def make_case(folder, video, times, fps, rng):
    """A random data set of a video. Returns (its name, `answers`)."""
    old = bool(rng.random() < 0.3)
    kind = np.float32 if rng.random() < 0.7 else np.float64
    episodes = make_episodes(rng, times, fps, old)
    with open_video(str(video)) as reader:
        duration = reader.duration
    place = write_set(folder, video, episodes, fps=fps, old=old, kind=kind)
    rounded = ROUNDED[video.suffix[1:]]
    return place, answers(times, duration, episodes, fps, kind, old, rounded)


def test_steps_have_the_frames_of_their_times(tmp_path):
    counts = {"read": 0, "refused": 0, "windows": 0}
    for seed in range(VIDEOS):
        rng = np.random.default_rng(seed)
        video = tmp_path / f"{seed}.{'mkv' if seed % 4 == 3 else 'mp4'}"
        times, fps = make_video(video, rng)
        for case in range(CASES):
            print(f"seed {seed}, case {case}")
            rng = np.random.default_rng([seed, case])
            folder = tmp_path / f"{seed}_{case}"
            place, allowed = make_case(folder, video, times, fps, rng)
            recordings = source_names.recordings(place)
            for number in range(len(recordings)):
                check_episode(recordings, number, allowed[number], counts)
            windows = source_names.trajectories(place, "", steps=5, apart=1, world=None)
            check_window(windows, [seed, case], allowed, counts)
    assert min(counts.values()) > 0.15 * VIDEOS * CASES, counts


def test_prepared_steps_have_the_frames_of_their_times(tmp_path):
    rng = np.random.default_rng(0)
    uneven = (np.arange(250) + np.append(0, rng.uniform(-0.3, 0.3, 249))) / 10
    video = tmp_path / "video.mp4"
    times = write_numbers(video, uneven, gop=40, start=0.7)
    edges = np.r_[0, np.sort(rng.choice(np.arange(1, 250), 29, replace=False)), 250]
    episodes = []
    for first, last in itertools.pairwise(edges):
        stamps = make_stamps(rng, last - first, 10, first)
        episodes.append((stamps, first / 10, last / 10))
    place = write_set(tmp_path / "set", video, episodes, fps=10)
    known = (times, np.inf, episodes, 10, np.float32, False, ROUNDED["mp4"])
    allowed = answers(*known)
    plan = TrajectoryPlan(place, held=0, piece=5)
    options = {"workers": 1, "shard_mb": 64, "say": id}
    folder = run.prepare(run.TRAJECTORIES, plan, str(tmp_path / "ready"), **options)
    bad = {whose(name) for name in read_json(folder / "report.json")["bad"]}
    seen = {}
    pieces = source_names.recordings(str(tmp_path / "ready"))
    for index in range(len(pieces)):
        steps = pieces.load(index)
        shown = numbers_in(steps["images_top"][:])
        for (number, step), frame in zip(
            steps["state"].astype(int), shown, strict=True
        ):
            assert frame in allowed[number][step], (number, step, frame)
            seen.setdefault(number, []).append(step)
    assert all(seen[number] == list(range(len(episodes[number][0]))) for number in seen)
    assert bad | seen.keys() == set(range(30)) and not bad & seen.keys()
    for number in bad:
        stuck = (np.diff(episodes[number][0]) <= 0).any()
        assert stuck or any(-1 in x for x in allowed[number]), number
    assert min(len(bad), len(seen)) > 5
