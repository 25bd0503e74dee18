"""Writes a run's metrics.jsonl, TensorBoard events and PNG pictures."""

import errno
import json
import math
import os
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from core.base.files import os_error_text
from core.base.pictures import encode_png
from core.runs.run_folder import METRICS


class FolderError(OSError):
    """The run's folder cannot be written; the message is one sentence for the user."""


@contextmanager
def writing(path):
    """Turn an OSError into a FolderError that names the path and what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "make room there and start again" if full else "give another --workdir"
        raise FolderError(
            f"cannot write {path}: {os_error_text(error)}; {cure}"
        ) from error


class Writer:
    """Writes numbers and pictures of a run; does nothing unless `active` (process 0).

    Every `write` is on disk when it returns. What an interrupted run wrote after
    `resume_step` is removed from metrics.jsonl and hidden in TensorBoard; pictures of
    later steps are overwritten. One writer per folder at a time. Methods raise
    FolderError if the folder cannot be written.
    """

    def __init__(self, workdir, resume_step: int = 0, *, active: bool = True):
        self.active = active
        if not active:
            return
        if "://" in str(workdir):
            raise ValueError(
                f"metrics cannot be appended to {workdir}; mount the bucket as a folder"
            )
        self.folder = Path(workdir)
        self.lines = self.folder / METRICS
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        drop_later_lines(self.lines, resume_step)
        self.events = _new_events_path(self.folder)
        with writing(self.events):
            self._records = RecordWriter(str(self.events))
        self._record(Event(file_version="brain.Event:2"))
        # TensorBoard discards what earlier files hold of this step and later ones.
        restart = SessionLog(status=SessionLog.START)
        self._record(Event(session_log=restart, step=resume_step + 1))

    def write(
        self,
        step: int,
        scalars: dict[str, float],
        pictures: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Write scalars, and uint8 RGB pictures [H, W, 3] or clips [T, H, W, 3], by name."""
        if not self.active:
            return
        numbers = {name: float(value) for name, value in scalars.items()}
        if numbers:
            append(self.lines, json_line(step, numbers).encode())
        summary = Summary()
        for name, number in numbers.items():
            summary.value.add(tag=name, simple_value=number)
        for name, picture in (pictures or {}).items():
            picture = np.asarray(picture)
            png = encode_png(picture)
            self._save(step, name, png)
            H, W, C = picture.shape[-3:]
            image = Summary.Image(
                height=H, width=W, colorspace=C, encoded_image_string=png
            )
            summary.value.add(tag=name, image=image)
        self._record(Event(summary=summary, step=int(step)))

    def close(self) -> None:
        """Close the event file; later writes do nothing."""
        if self.active:
            self.active = False
            with writing(self.events):
                self._records.close()

    def _save(self, step, name, png):
        path = picture_path(self.folder, step, name)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png)

    def _record(self, event):
        event.wall_time = time.time()
        with writing(self.events):
            self._records.write(event.SerializeToString())
            self._records.flush()


def picture_path(folder, step: int, name: str) -> Path:
    """DIR/pictures/00000120_name.png: names sort by step."""
    return Path(folder) / "pictures" / f"{int(step):08d}_{name.replace('/', '-')}.png"


def json_line(step: int, numbers: dict[str, float]) -> str:
    """One line of valid JSON, step first.

    JSON has no NaN or infinity: they are the strings "nan", "inf" and "-inf", so that
    float(value) reads every value back.
    """
    assert "step" not in numbers, numbers
    values = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
    return json.dumps({"step": int(step), **values}, allow_nan=False) + "\n"


def append(path, record: bytes) -> None:
    """Append to a file and close it, so that readers see the record at once."""
    with writing(path), open(path, "ab") as file:
        file.write(record)


def drop_later_lines(path, step: int) -> None:
    """Remove lines after `step` and an incomplete last line; replaces the file atomically."""
    path = Path(path)
    if not path.exists():
        return
    with writing(path):
        old = path.read_bytes()
        new = b"".join(
            line + b"\n" for line in old.splitlines() if _step_of(line) <= step
        )
        if new != old:
            part = path.with_name(path.name + ".part")
            with open(part, "wb") as file:
                file.write(new)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)


def _step_of(line):
    """The step of a line; infinity for an incomplete line of a killed run."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def _new_events_path(folder):
    """The next number: TensorBoard reads event files in the order of their names."""
    numbers = [int(p.name.split(".")[3]) for p in folder.glob("events.out.tfevents.*")]
    return folder / f"events.out.tfevents.{max(numbers, default=0) + 1:06d}.reverie"
