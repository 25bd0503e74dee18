"""From records to batches: integers first, data in one last pure map, bad records told.

Sample p, counted over the whole run and all hosts, is a function of (records, seed, p)
only. So batch size, hosts and workers may change when a run resumes, and the cursor is
one integer; grain's own iterator state is tied to all three.
"""

import dataclasses
import weakref
from collections.abc import Callable

import grain
import numpy as np
from absl import flags, logging

from core.base.processes import end_with_parent, ignore_parent_signals
from core.data.bad_samples import Ledger, list_bad
from core.data.mixture import spans
from core.data.records import Records, TooManyBad, explain
from core.data.sample_order import make_order

LIVES = 4  # of the workers, before dying at one sample ends the run
REASON_BYTES = 96

# Streams of randomness; the position comes last, as SeedSequence pads with zeros.
LOAD, REPLACE, TRANSFORM = range(3)  # and a fourth in core/data/sample_order.py


def make_source(
    records: Records,
    *,
    batch: int,
    seed: int,
    workers: int = 0,
    threads: int = 1,
    buffer: int = 2,
    shard: tuple[int, int] = (0, 1),
    shuffle: bool = True,
    transform: Callable | None = None,
    crops: int = 1,
    max_bad_share: float = 0.01,
    max_tries: int = 8,
) -> "Source":
    """Endless batches of `records`; this host gets every n-th sample of each batch.

    shard: (i, n), this host's number among n; it gets `batch` // n samples at a time.
    shuffle: a new order in every epoch; without it, sample p is record p.
    transform: picklable (item, *, position, rng) -> dict of arrays, such as masks.
    crops: samples that records give at a time, as arrays [crops, ...] if more than one;
      they follow each other.
    workers: processes that load; with none, `threads` threads of this process do.
    buffer: batches that each worker, or this process, holds ready.
    """
    index, count = shard
    if batch % (unit := count * crops):
        of_crops = f" and {crops} crops of each video" if crops > 1 else ""
        raise ValueError(
            f"batch {batch} does not divide over {count} hosts{of_crops}; "
            f"use {batch - batch % unit or unit} or {batch - batch % unit + unit}"
        )
    if not 0 <= index < count:
        raise ValueError(f"shard is {shard}; expected (i, n) with 0 <= i < n")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; expected 0 <= seed < 2**32")
    if not len(records):
        raise ValueError(f"{records} has no records")
    load = Load(records, seed=seed, tries=max_tries, transform=transform, crops=crops)
    samples = make_order(records, seed=seed, shuffle=shuffle).map_with_index(load)
    read = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(buffer, threads)
    )
    processes = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=buffer
    )

    def start(position):
        """An iterator over this host's batches from a global position on."""
        # Batches are cut before workers share them out: their number changes nothing.
        mine = samples[position // crops + index :: count].batch(
            batch // unit, drop_remainder=True
        )
        mine = mine.to_iter_dataset(read)
        if not workers:
            return iter(mine.map(flat) if crops > 1 else mine)
        if not flags.FLAGS.is_parsed():  # grain's workers read a flag, and fail without
            flags.FLAGS.mark_as_parsed()
        ready = mine.mp_prefetch(processes, worker_init_fn=end_with_parent).map(own)
        ready = ready.map(flat) if crops > 1 else ready
        return iter(
            grain.experimental.ThreadPrefetchIterDataset(ready, prefetch_buffer_size=1)
        )

    ledger = Ledger(records, max_bad_share, crops)
    return Source(start, ledger, batch=batch, shard=shard)


@dataclasses.dataclass(frozen=True)
class Load:
    """(position, record) -> (sample, report of the records that failed for it)."""

    records: Records
    _: dataclasses.KW_ONLY
    seed: int
    tries: int
    transform: Callable | None
    crops: int = 1

    def __call__(self, position, record):
        failed = {}
        while True:
            try:
                rng = self._rng(LOAD, len(failed), position)
                item = self.records.load(record, rng)
                break
            except Exception as error:  # noqa: BLE001, counted and reported
                failed[record] = explain(error)
            record = self._another(failed, position)
        if self.transform and self.crops == 1:
            item = self._transform(item, position)
        elif self.transform:
            parts = [{k: x[j] for k, x in item.items()} for j in range(self.crops)]
            first = position * self.crops
            parts = [self._transform(part, first + j) for j, part in enumerate(parts)]
            item = {k: np.stack([part[k] for part in parts]) for k in parts[0]}
        return item, self._report(failed)

    def _rng(self, stream, attempt, position):
        return np.random.default_rng([self.seed, stream, attempt, position])

    def _another(self, failed, position):
        """A record of the same part that has not failed, the same one wherever this
        sample is made."""
        first = next(iter(failed))
        start, stop = next(s for s in spans(self.records) if first < s[1])
        n = stop - start
        if len(failed) == min(self.tries, n):
            names = list_bad((self.records.name(r), why) for r, why in failed.items())
            raise TooManyBad(
                f"none of the {len(failed)} records tried for sample {position} of "
                f"{self.records} could be read: {names}; repair or remove such records"
            )
        step = int(self._rng(REPLACE, len(failed), position).integers(n))
        while start + step in failed:
            step = (step + 1) % n
        return start + step

    def _transform(self, item, position):
        rng = self._rng(TRANSFORM, 0, position)
        try:
            return self.transform(item, position=position, rng=rng)
        except Exception as error:
            # Its own type might not survive the way from a worker: then grain hangs.
            message = f"the transform of sample {position} failed: {explain(error)}"
            raise RuntimeError(message) from error

    def _report(self, failed):
        """The failed records and their reasons, in arrays of one shape for all."""
        record = np.full(self.tries, -1, np.int64)
        reason = np.zeros(self.tries, f"S{REASON_BYTES}")
        for k, (r, why) in enumerate(failed.items()):
            record[k], reason[k] = r, why.encode(errors="replace")[:REASON_BYTES]
        return {"record": record, "reason": reason}


class Source:
    """The batches of this host: next, a cursor to save, and an account of the bad."""

    def __init__(self, start: Callable, ledger: Ledger, *, batch, shard):
        self.start, self.ledger = start, ledger
        self.batch, self.shard = batch, shard
        self.next_index = 0
        self.running = []  # the iterator, made by the first `next`: a resume is free
        # A program that ends without `close` would drown its error in grain's.
        weakref.finalize(self, _close, self.running)

    def next(self, state=None) -> dict[str, np.ndarray]:
        """The next batch {name: [batch // hosts, ...]}; the state is not used."""
        item, report = self._pull()
        index, count = self.shard
        first, crops = self.next_index, self.ledger.crops
        self.next_index += self.batch
        positions = range(first + index * crops, self.next_index, count * crops)
        self.ledger.add(positions, report)
        return item

    def _pull(self):
        for life in range(1, LIVES + 1):
            try:
                if not self.running:
                    with ignore_parent_signals():
                        self.running.append(self.start(self.next_index))
                        return next(self.running[0])
                return next(self.running[0])
            except Exception as error:
                self.close()  # grain would go on without the failed worker's share
                if "terminated unexpectedly with exit code" not in str(error):
                    raise
                death = f"at sample {self.next_index} for the {life}. time: {error}"
                logging.warning("Data workers died %s", death)
        raise RuntimeError(
            f"Data workers died {death} Exit code -9 is usually too little memory, "
            "-7 too little /dev/shm, -11 a crash of the decoder."
        )

    def get_state(self) -> dict[str, int]:
        """The cursor: samples consumed by all hosts, and this host's account."""
        account = {"seen": self.ledger.seen, "bad": self.ledger.bad}
        return {"next_index": self.next_index, **account}

    def set_state(self, state: dict[str, int]):
        """Continue at a cursor, whatever batch size and hosts it was saved with."""
        self.close()
        self.next_index = state["next_index"]
        self.ledger.seen, self.ledger.bad = state["seen"], state["bad"]

    def report(self) -> dict:
        """Samples seen, samples whose record was replaced, the new failures; no numbers."""
        new, self.ledger.new = self.ledger.new, []
        account = {"seen": self.ledger.seen, "bad": self.ledger.bad}
        return account | {"new": new, "numbers": {}}

    def close(self):
        """Stop threads and processes; `next` would start them again."""
        _close(self.running)


def own(batch):
    """Arrays of this process: those of workers are shared memory, which must not outlive
    the workers, and each look into which is slow."""
    return tuple({k: np.array(x) for k, x in arrays.items()} for arrays in batch)


def flat(batch):
    """Samples that came together, one after the other: [b, crops, ...] -> [b crops, ...]."""
    item, report = batch
    return {k: x.reshape(-1, *x.shape[2:]) for k, x in item.items()}, report


def _close(iterators):
    while iterators:
        iterators.pop().close()
