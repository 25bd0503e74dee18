"""The account of samples that could not be read, and its limit."""

import itertools
from collections import deque

import numpy as np

from core.data.records import Records, TooManyBad

WINDOW = 10_000  # samples over which the share of bad ones is taken
ENOUGH = 200  # samples after which that share means something


class Ledger:
    """The account of bad samples; raises TooManyBad above a share of `limit`."""

    def __init__(self, records: Records, limit: float, crops: int = 1):
        self.records, self.limit, self.crops = records, limit, crops
        self.seen, self.bad, self.new = 0, 0, []
        self.window = deque(maxlen=WINDOW)  # per sample, whether its own record was bad
        self.examples = {}  # name -> reason

    def add(self, positions, report):
        """Enter the samples of a batch; a sample is bad if its own record failed.

        positions: of the first sample of each record.
        """
        for position, record, reason in zip(
            positions, report["record"], report["reason"], strict=True
        ):
            self.window.extend([bool(record[0] >= 0)] * self.crops)
            for r, why in zip(record[record >= 0], reason, strict=False):
                name, why = self.records.name(int(r)), why.decode(errors="ignore")
                self.new.append({"name": name, "reason": why, "position": position})
                self.examples.setdefault(name, why)
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
    """The first few (name, reason), for a sentence."""
    return ", ".join(f"{name} ({why})" for name, why in itertools.islice(bad, 5))
