"""Counts samples that could not be read, and stops a run that has too many."""

import itertools
from collections import deque
from typing import Any, TypedDict

import numpy as np

from core.data.records import Records, TooManyBad

WINDOW = 10_000  # newest samples over which the share of bad ones is computed
ENOUGH = 200  # samples below which the share is not checked


class SourceReport(TypedDict):
    """What a source returns from `report`: core/method.py, Report."""

    seen: int
    bad: int
    new: list[dict[str, Any]]
    numbers: dict[str, float]


class Ledger:
    """Counts the samples of this host, and those of them that were replaced.

    limit: largest share of bad samples. crops: samples per record.
    """

    def __init__(self, records: Records, limit: float, crops: int = 1):
        self.records, self.limit, self.crops = records, limit, crops
        self.seen, self.bad = 0, 0
        self.new: list[dict[str, Any]] = []  # failures since the last report
        self.window: deque[bool] = deque(maxlen=WINDOW)  # per sample: was it replaced
        self.examples: dict[str, str] = {}  # name of a record -> reason

    def add(self, positions, report):
        """Count the samples of a batch; a sample is bad if its own record failed.

        positions: of the first sample of each record. report: arrays "record" [n, tries],
        numbers of failed records, else -1, "reason" and "blamed" [n, tries], the name of
        the recording to blame if it is not the record itself.
        Raises TooManyBad if the share of bad samples exceeds the limit.
        """
        parts = (report[k] for k in ("record", "reason", "blamed"))
        for position, record, reason, blamed in zip(positions, *parts, strict=True):
            self.window.extend([bool(record[0] >= 0)] * self.crops)
            for r, text, name in zip(record[record >= 0], reason, blamed, strict=False):
                name = name.decode(errors="ignore") or self.records.name(int(r))
                text = text.decode(errors="ignore")
                self.new.append({"name": name, "reason": text, "position": position})
                self.examples.setdefault(name, text)
        self.seen += len(positions) * self.crops
        self.bad += int(np.sum(report["record"][:, 0] >= 0)) * self.crops
        self._check()

    def _check(self):
        n, bad = len(self.window), sum(self.window)
        enough = n >= ENOUGH or (n >= 8 and bad == n)
        if enough and bad > self.limit * n:
            raise TooManyBad(
                f"{bad} of the last {n} samples ({bad / n:.1%}) of {self.records} "
                "could not be read, more than data.max_bad_share = "
                f"{self.limit:g} allows: "
                f"{list_bad(self.examples.items())}; repair or remove such records, "
                "or raise data.max_bad_share"
            )


def list_bad(bad):
    """The first five (name, reason) pairs as "name (reason), ..."."""
    return ", ".join(f"{name} ({reason})" for name, reason in itertools.islice(bad, 5))
