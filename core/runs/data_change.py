"""The data of a run is part of it: its fingerprint is recorded, and compared on a resume."""

import pathlib
from collections.abc import Sequence
from typing import Any

from core.base.files import read_json, write_json
from core.method import Source
from core.runs.run_folder import PROVENANCE

Fingerprints = Sequence[dict[str, Any]]


def fingerprints(source: Source) -> Fingerprints:
    """What a source says of its data; empty for sources without `fingerprint`."""
    ask = getattr(source, "fingerprint", None)
    return ask() if ask is not None else []


def check_data(folder: pathlib.Path, now: Fingerprints, *, allow_change: bool) -> None:
    """Raise ValueError if a run that resumes began with other data, and not `allow_change`.

    Data that moved to another place is the same. A run of an older version has no
    fingerprint: its data is recorded at its first resume.
    """
    path = folder / PROVENANCE
    known = read_json(path).get("data") if path.exists() else None
    if known and not allow_change and (changes := data_differences(known, now)):
        raise ValueError(
            f"the data of the run in {folder} has changed: {'; '.join(changes)}. Restore "
            "it, or --allow_data_change to go on with the new data"
        )


def data_differences(known: Fingerprints, now: Fingerprints) -> list[str]:
    """A phrase per data set of a mixture that differs."""
    if len(known) != len(now):
        return [f"it was {len(known)} data sets, is {len(now)}"]
    found = []
    for old, new in zip(known, now, strict=True):
        names = [x for x in ("files", "bytes") if old.get(x) != new.get(x)]
        parts = [f"{old.get(x, 'no')} {x} became {new.get(x, 'none')}" for x in names]
        if not parts and old.get("digest") != new.get("digest"):
            parts = ["names or sizes of its files differ"]
        if parts:
            moved = f" (before in {old['place']})" * (old["place"] != new["place"])
            place = new["place"] or "computed data"
            found.append(f"{place}: {', '.join(parts)}{moved}")
    return found


def record_data(folder: pathlib.Path, now: Fingerprints) -> None:
    """Write the fingerprint to provenance.json; one that it replaces stays in "resumed"."""
    path = folder / PROVENANCE
    known = read_json(path)
    before = known.get("data")
    if before and data_differences(before, now) and known.get("resumed"):
        known["resumed"][-1]["data_before"] = before
    write_json(path, known | {"data": now})
