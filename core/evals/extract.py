"""Features of videos, computed once and kept on disk for all heads."""

import concurrent.futures
import json
import pathlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from core.base.files import digest, read_json, write_json
from core.data.records import explain

SAVE_EVERY = 20  # batches between notes of progress, from which a stopped run goes on


class Features(NamedTuple):
    """Features of the videos that could be read.

    tokens: float16 [n, views, N, D], on disk. rows: of the videos, int [n]. bad: {row:
    reason} of the others.
    """

    tokens: np.ndarray
    rows: np.ndarray
    bad: dict[int, str]


def feature_folder(out, about: dict[str, Any]) -> pathlib.Path:
    """OUT/features/DIGEST for everything that features depend on."""
    return (
        pathlib.Path(out)
        / "features"
        / digest(json.dumps(about, sort_keys=True).encode())[:16]
    )


def extract(
    folder: pathlib.Path,
    encode: Callable,
    load: Callable[[int], np.ndarray],
    count: int,
    *,
    batch: int,
    workers: int,
    progress: Callable[[int], None] = lambda done: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Features | None:
    """Features of `count` videos in FOLDER/tokens.npy; goes on where it was stopped.

    Args:
      encode: uint8 clips [b, T, H, W, 3] -> tokens [b, N, D], compiled; the last batch is
        filled up with its first clips.
      load: row -> uint8 [views, clips, T, H, W, 3]; what it raises makes the row bad.
      batch: clips per call of `encode`. workers: threads that decode.
      progress: called with the number of videos that are done.

    Returns None if `stopping` became true; the tokens of a video's clips stand one after
    another. While the device encodes a batch, the one before it is stored and the next ones
    are decoded. Raises ValueError if features are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes, place = folder / "progress.json", folder / "tokens.npy"
    known = (
        read_json(notes)
        if notes.exists() and place.exists()
        else {"done": 0, "bad": {}}
    )
    done, bad = known["done"], {int(row): text for row, text in known["bad"].items()}
    tokens = np.load(place, mmap_mode="r+") if done else None
    groups = decoded(load, range(done, count), batch, workers, bad)
    for i, (rows, found) in enumerate(encoded(encode, groups, batch)):
        check_finite(found)
        if tokens is None:
            shape = (count, *found.shape[1:])
            tokens = np.lib.format.open_memmap(place, "w+", np.float16, shape)
        tokens[rows] = found
        done = rows[-1] + 1
        stopped = stopping()
        if i % SAVE_EVERY == 0 or stopped:
            known_bad = {row: text for row, text in bad.items() if row < done}
            save_progress(notes, tokens, done, known_bad)
        if stopped:
            return None
        progress(done)
    save_progress(notes, tokens, count, bad)
    if tokens is None:
        reasons = "; ".join(sorted(set(bad.values()))[:3])
        raise ValueError(f"none of {count} videos could be read: {reasons}")
    rows = np.setdiff1d(np.arange(count), list(bad))
    return Features(tokens, rows, bad)


def save_progress(notes: pathlib.Path, tokens, done: int, bad: dict[int, str]) -> None:
    """Flush the tokens, then note how far they are."""
    if tokens is not None:
        tokens.flush()
        write_json(notes, {"done": int(done), "bad": bad})


def decoded(load, rows: range, batch: int, workers: int, bad: dict) -> Iterator:
    """(rows, videos) in order, decoded ahead by threads; failures are added to `bad`."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        ahead: deque = deque()
        waiting = iter(rows)
        group_rows: list[int] = []
        group: list[np.ndarray] = []
        while True:
            while (
                len(ahead) < 2 * max(workers, batch)
                and (row := next(waiting, None)) is not None
            ):
                ahead.append((row, pool.submit(load, row)))
            if not ahead:
                break
            row, future = ahead.popleft()
            try:
                video = future.result()
            except Exception as error:  # noqa: BLE001, a file can fail in any way
                bad[row] = explain(error)
                continue
            group_rows.append(row)
            group.append(video)
            if len(group) * video.shape[0] * video.shape[1] >= batch:
                yield group_rows, group
                group_rows, group = [], []
        if group:
            yield group_rows, group


def encoded(encode: Callable, groups: Iterator, batch: int) -> Iterator:
    """(rows, float16 tokens) of groups (rows, videos), one group behind the device."""
    before = None
    for rows, videos in groups:
        running = rows, start_encoding(encode, np.stack(videos), batch)
        if before is not None:
            yield before[0], before[1]()
        before = running
    if before is not None:
        yield before[0], before[1]()


def check_finite(tokens: np.ndarray) -> None:
    """Raise ValueError if there are tokens that are not finite."""
    if not np.isfinite(tokens).all():
        raise ValueError(
            "features are not finite: the weights are damaged, or features are beyond "
            "float16, 65504"
        )


def start_encoding(
    encode: Callable, videos: np.ndarray, batch: int
) -> Callable[[], np.ndarray]:
    """Encode [n, views, clips, T, H, W, 3]; returns a function that waits for the result.

    It returns float16 tokens [n, views, clips * N, D].
    """
    n, views, clips = videos.shape[:3]
    flat = videos.reshape(-1, *videos.shape[3:])
    found = []
    for start in range(0, len(flat), batch):
        part = flat[start : start + batch]
        short = batch - len(part)
        full = np.concatenate([part, np.repeat(part[:1], short, 0)]) if short else part
        found.append((encode(full), len(part)))

    def wait():
        with np.errstate(over="ignore"):  # `check_finite` reports it
            parts = [np.asarray(x, np.float16)[:count] for x, count in found]
        tokens = np.concatenate(parts)
        return tokens.reshape(n, views, clips * tokens.shape[1], tokens.shape[2])

    return wait
