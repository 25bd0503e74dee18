"""A run's record in its folder: metrics.jsonl, TensorBoard events, PNG pictures."""

import errno
import json
import math
import os
import struct
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from core.base.files import os_error_text
from core.base.pictures import encode_png
from core.runs.run_folder import METRICS


class FolderError(OSError):
    """The run's folder cannot be written; the message is one sentence for the user."""


@contextmanager
def writing(path):
    """Turn an OSError into a sentence that names the path."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "make room there and start again" if full else "give another --workdir"
        raise FolderError(
            f"cannot write {path}: {os_error_text(error)}; {cure}"
        ) from error


class Writer:
    """Appends what a run measures to its folder; silent unless `active` (process 0).

    A resumed run gives the step it resumes from: what a killed run wrote after that
    step is dropped from metrics.jsonl, hidden in TensorBoard, and pictures of later
    steps are overwritten as the run gets there again. One writer per folder at a time.
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
        self._record(Event(file_version="brain.Event:2"))
        # TensorBoard forgets what earlier files hold of this step and later.
        restart = SessionLog(status=SessionLog.START)
        self._record(Event(session_log=restart, step=resume_step + 1))

    def write(
        self,
        step: int,
        scalars: dict[str, float],
        pictures: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Record numbers, and uint8 RGB pictures [H, W, 3] or clips [T, H, W, 3]."""
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
        """Record nothing more; what was written is in the files already."""
        self.active = False

    def _save(self, step, name, png):
        path = picture_path(self.folder, step, name)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png)

    def _record(self, event):
        event.wall_time = time.time()
        append(self.events, framed(event.SerializeToString()))


def picture_path(folder, step: int, name: str) -> Path:
    """DIR/pictures/00000120_name.png: a listing is in the order of the run."""
    return Path(folder) / "pictures" / f"{int(step):08d}_{name.replace('/', '-')}.png"


def json_line(step: int, numbers: dict[str, float]) -> str:
    """One line of valid JSON, step first.

    JSON has no NaN or infinity: they are the strings "nan", "inf" and "-inf", so that
    float(value) reads every value back.
    """
    assert "step" not in numbers, numbers
    values = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
    return json.dumps({"step": int(step), **values}, allow_nan=False) + "\n"


def framed(record: bytes) -> bytes:
    """A TFRecord: length, its checksum, the bytes, their checksum."""
    size = struct.pack("<Q", len(record))
    check = [struct.pack("<I", masked_crc32c(part)) for part in (size, record)]
    return size + check[0] + record + check[1]


def append(path, record: bytes) -> None:
    """Add to a file and close it again, so that a reader sees the record at once."""
    with writing(path), open(path, "ab") as file:
        file.write(record)


def drop_later_lines(path, step: int) -> None:
    """Keep the whole lines up to `step`, by one atomic replacement of the file."""
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
    """A line's step; infinity for the half line of a killed run."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def _new_events_path(folder):
    """TensorBoard reads files in the order of their names, so number them."""
    numbers = [int(p.name.split(".")[3]) for p in folder.glob("events.out.tfevents.*")]
    return folder / f"events.out.tfevents.{max(numbers, default=0) + 1:06d}.reverie"
