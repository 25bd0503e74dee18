"""Counts samples that could not be read or repeat frames; too many bad ones stop a run."""

import itertools
from collections import deque
from typing import Any, TypedDict

import numpy as np
from absl import logging

from core.data.records import REPEATED, Records, TooManyBad

WINDOW = 10_000  # newest samples over which the share of bad ones is computed
FIRST = 8  # records after which it is reported that most clips repeat frames
ENOUGH = 200  # samples below which the share is not checked


class SourceReport(TypedDict):
    """What a source returns from `report`: core/method.py, Report."""

    seen: int
    bad: int
    new: list[dict[str, Any]]
    numbers: dict[str, float]


class Ledger:
    """Counts the samples of this host, those of them that were replaced, and those that
    repeat frames.

    limit: largest share of bad samples. crops: samples per record.
    """

    def __init__(self, records: Records, limit: float, crops: int = 1):
        self.records, self.limit, self.crops = records, limit, crops
        self.seen, self.bad = 0, 0
        self.repeated: int | None = (
            None  # None: the records do not count repeated frames
        )
        self.first: list[int] = []  # frames repeated in each of the first records
        self.new: list[dict[str, Any]] = []  # failures since the last report
        self.window: deque[bool] = deque(maxlen=WINDOW)  # per sample: was it replaced
        self.examples: dict[str, str] = {}  # name of a record -> reason

    def add(self, positions, report):
        """Count the samples of a batch; a sample is bad if its own record failed.

        positions: of the first sample of each record. report: arrays "record" [n, tries],
        numbers of failed records, else -1, "reason" and "blamed" [n, tries], the name of
        the recording to blame if it is not the record itself, and REPEATED [n], -1 for
        records that do not count it.
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
        counts = report[REPEATED][report[REPEATED] >= 0]
        if len(counts):
            self.repeated = (self.repeated or 0) + int((counts > 0).sum()) * self.crops
            self._report_first(counts.tolist())

    def numbers(self) -> dict[str, float]:
        """{REPEATED: samples that repeat frames}; {} for records that do not count it."""
        return {} if self.repeated is None else {REPEATED: self.repeated}

    def _report_first(self, counts):
        """Log once that most of the first clips repeat frames."""
        if len(self.first) >= FIRST:
            return
        self.first += counts
        most = [count for count in self.first if count]
        if len(self.first) >= FIRST and 2 * len(most) > len(self.first):
            logging.warning(
                "%d of the first %d clips of %s have fewer different frames than "
                "data.frames (%.1f of them repeat the one before, on average); lower "
                "data.fps to the frame rate of the videos, or, where these are shorter than "
                "data.frames / data.fps seconds, lower data.frames or raise data.fps",
                *(len(most), len(self.first), self.records, np.mean(most)),
            )

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
