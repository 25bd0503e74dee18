"""Where a run's time goes, over all its restarts: goodput.json in its folder.

The file has an entry per session, which is one process from its start to its end:
first, step: steps done when it began and by now. began, until: Unix times. seconds: by KINDS.
"""

import itertools
import pathlib
from typing import Any

from core.base.files import read_json, write_json
from core.base.text import duration

FILE = "goodput.json"
TRAIN = "train"  # productive; all else is not
# Of a session, in the order of the summary; then `lost` and `down` between sessions.
KINDS = (TRAIN, "start", "compile", "data", "checkpoint", "evaluate")


def read_sessions(folder) -> list[dict[str, Any]]:
    """The sessions of a run so far, oldest first; none for runs of older versions."""
    path = pathlib.Path(folder) / FILE
    try:
        return read_json(path) if path.exists() else []
    except ValueError:
        return []  # it serves no result


def write_session(folder, earlier: list[dict], session: dict) -> None:
    """Write the session that goes on after the earlier ones."""
    write_json(pathlib.Path(folder) / FILE, [*earlier, session])


def add_up(sessions: list[dict]) -> dict[str, float]:
    """Seconds by kind over all sessions, with `lost` and `down`.

    lost: training after the last checkpoint of a session that was not saved, since the next
    session began at an earlier step. It does not count as training. down: from the last
    report of a session to the start of the next.
    """
    total = dict.fromkeys((*KINDS, "lost", "down"), 0.0)
    for one, after in zip(sessions, [*sessions[1:], None], strict=True):
        for kind in KINDS:
            total[kind] += one["seconds"].get(kind, 0.0)
        if after is None:
            continue
        done = one["step"] - one["first"]
        again = one["step"] - max(after["first"], one["first"])
        if done > 0 and again > 0:
            lost = one["seconds"].get(TRAIN, 0.0) * again / done
            total[TRAIN] -= lost
            total["lost"] += lost
        total["down"] += max(0.0, after["began"] - one["until"])
    return total


def share(total: dict[str, float]) -> float:
    """Training that counts, as a share of all time; NaN before there is any."""
    whole = sum(total.values())
    return total[TRAIN] / whole if whole > 0 else float("nan")


def lost_steps(sessions: list[dict]) -> int:
    """Steps that were done and not saved, over all restarts."""
    pairs = itertools.pairwise(sessions)
    return sum(max(0, one["step"] - after["first"]) for one, after in pairs)


def describe(sessions: list[dict]) -> list[str]:
    """A line that says where the time went, and one about restarts if there were any."""
    total = add_up(sessions)
    whole = sum(total.values())
    parts = [
        f"{kind} {x / whole:.0%}" for kind, x in total.items() if x >= 0.005 * whole
    ]
    lines = [f"{duration(whole)} in all: {', '.join(parts)}"] if whole > 0 else []
    if sessions[1:]:
        count, lost = len(sessions) - 1, lost_steps(sessions)
        lines.append(f"{count} restarts, {lost} steps done again")
    return lines
