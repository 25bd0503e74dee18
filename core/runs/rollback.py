"""Rolls a run back that diverged: its last checkpoint, and the data after the bad batches.

A rollback is a restart with a note: rollbacks.jsonl says at which step the run diverged, to
which checkpoint it went back, and the source's cursor from there. A run that is stopped and
resumed reads the same notes, so it goes on as if it had not been stopped.
"""

import json
import pathlib

import jax

from core.parallel import peers
from core.runs.writer import append

FILE = "rollbacks.jsonl"


def read_rollbacks(folder) -> list[dict]:
    """The notes so far, oldest first: {"diverged", "step", "cursor"}."""
    path = pathlib.Path(folder) / FILE
    return (
        [json.loads(line) for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )


def note_rollback(folder, *, diverged: int, step: int, cursor: dict) -> None:
    """Add a note (process 0): back from step `diverged` to `step`, data from `cursor` on."""
    if jax.process_index() == 0:
        note = {"diverged": diverged, "step": step, "cursor": cursor}
        append(pathlib.Path(folder) / FILE, (json.dumps(note) + "\n").encode())
    peers.meet("rollback")


def cursor_after(folder, step: int) -> dict | None:
    """Where the data go on after `step`, by the newest note about it; None without one."""
    notes = [note for note in read_rollbacks(folder) if note["step"] == step]
    return notes[-1]["cursor"] if notes else None
