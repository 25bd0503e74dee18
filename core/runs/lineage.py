"""lineage.jsonl: a line per evaluation and per export of a run, appended and never changed."""

import datetime
import json
import math
import numbers
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from core.base.digests import SUMS, digest_files
from core.base.files import digest, read_json
from core.base.locks import wait_for_lock
from core.runs import checkpoint, integrity, mirror, run_folder
from core.runs.writer import writing

LINEAGE = "lineage.jsonl"
EVALUATION, EXPORT = "evaluation", "export"
ALWAYS = ("step", "checkpoint", "digest", "data", "revision")
NEEDED = {  # fields of a line by its kind
    EVALUATION: (*ALWAYS, "evaluation", "findings"),
    EXPORT: (*ALWAYS, "artifact", "provenance", "promoted"),
}
Entry = dict[str, Any]


def subject(place: pathlib.Path, step: int) -> Entry:
    """What a line says of the weights at `place`: a checkpoint's folder or published weights.

    step, checkpoint, digest (`identity`), data (digests of the data sets that they were
    trained on, "" for computed data), revision of the code that runs now.
    """
    place = step_folder(place)
    return {
        "step": step,
        "checkpoint": str(place),
        "digest": identity(place),
        "data": [one.get("digest", "") for one in data_of(place)],
        "revision": run_folder.revision(),
    }


def step_folder(place: pathlib.Path) -> pathlib.Path:
    """The newest checkpoint of a run's folder; any other place as it is."""
    saved = mirror.within(place, mirror.CHECKPOINTS)
    steps = checkpoint.steps_in(saved)
    return saved / str(steps[-1]) if steps else place


def identity(place: pathlib.Path) -> str:
    """SHA-256 by which weights are known, wherever they are copied to.

    Of a checkpoint that of its SHA256SUMS, of an export that of its provenance.json, of
    other weights that of the names and digests of their files. "" for a checkpoint that is
    not written yet, or that an older version wrote.
    """
    for name in (SUMS, run_folder.PROVENANCE):
        if (place / name).is_file():
            return digest(place / name)
    if place.is_file():
        return digest(place)
    files = [*place.glob("*.safetensors"), *place.glob("*.json")]
    sums = digest_files(place, [path.name for path in files])
    return digest(json.dumps(sums).encode()) if sums else ""


def home_of(place: pathlib.Path) -> pathlib.Path:
    """The folder of a checkpoint's run; any other place as it is."""
    return place.parent.parent if integrity.is_step(place.name) else place


def data_of(place: pathlib.Path) -> list[Entry]:
    """Fingerprints of the data that a checkpoint or an export was trained on, if known."""
    path = home_of(place) / run_folder.PROVENANCE
    known = read_json(path) if path.is_file() else {}
    while "data" not in known and isinstance(known.get("run"), dict):
        known = known["run"]
    return known.get("data") or []


def record_evaluation(
    path: pathlib.Path, about: Entry, name: str, findings: Mapping[str, Any]
) -> None:
    """Append what the evaluation `name` found. findings: numbers, nested by name."""
    found, intervals = flat_numbers(findings)
    entry = {"evaluation": name, "findings": found}
    append(path, EVALUATION, entry | {"intervals": intervals} | about)


def flat_numbers(findings: Mapping[str, Any]) -> tuple[dict, dict]:
    """({"a/b": number}, {"a/b": [low, high]}) of nested findings; other values are left out.

    An entry "interval", two numbers, is that of the first number beside it.
    """
    found: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for name, value in findings.items():
        if isinstance(value, Mapping):
            for inner, whole in zip(
                flat_numbers(value), (found, intervals), strict=True
            ):
                whole.update({f"{name}/{k}": v for k, v in inner.items()})
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            found[name] = float(value)
    if found and isinstance(ends := findings.get("interval"), list | tuple):
        intervals[next(iter(found))] = [float(x) for x in ends]
    return found, intervals


def append(path: pathlib.Path, kind: str, entry: Entry) -> None:
    """Append a line; several processes may do so at once.

    It is one write under the file's lock, after the end of the line before, which a killed
    process may have left open. Raises core.runs.writer.FolderError.
    """
    now = datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")
    text = json.dumps(storable({"time": now, "kind": kind} | entry), allow_nan=False)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            wait_for_lock(file)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def storable(value):
    """JSON has no NaN or infinity: they are strings that float() reads back."""
    if isinstance(value, Mapping):
        return {key: storable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [storable(entry) for entry in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite else str(value)


def read(path: pathlib.Path) -> Iterator[Entry | str]:
    """The lines of a file, oldest first, none without a file; text for an unreadable line.

    Such a line is that of a process that was killed, or was edited.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            entry = json.loads(line)
            datetime.datetime.fromisoformat(entry["time"])
            whole = entry.keys() >= {*NEEDED[entry["kind"]]}
            yield entry if whole else f"{path}: line {number} lacks fields"
        except (ValueError, KeyError, TypeError):
            yield f"{path}: line {number} is damaged"


def of_same_weights(entry: Entry, about: Entry) -> bool:
    """Whether a line was written of these weights, `about` as of `subject`.

    A line without digest is that of a train loop whose checkpoint was not written yet: it
    counts if the write had begun, not if the step is of a later attempt.
    """
    if entry["digest"] and about["digest"]:
        return entry["digest"] == about["digest"]
    same = entry["step"] == about["step"]
    began = integrity.began(mirror.run_place(about["checkpoint"], what="checkpoint"))
    return same and datetime.datetime.fromisoformat(entry["time"]).timestamp() >= began
