"""From records to batches: sample order, loading, replacing bad records, the cursor.

Sample p, counted over the whole run and all hosts, depends on (records, seed, p) only. So
the cursor is one integer, and batch size, hosts and workers may change when a run resumes;
grain's own iterator state depends on all three.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable

import grain
import numpy as np
from absl import flags, logging

from core.base.processes import end_with_parent
from core.base.waiting import SourceFailed, Stopped, never
from core.data.fingerprint import fingerprint
from core.data.loading.bad_samples import Ledger, SourceReport, list_bad
from core.data.loading.in_flight import InFlight
from core.data.loading.reading import Reading
from core.data.loading.room import Room, measure_room
from core.data.loading.sample_order import make_order
from core.data.mixture import part_ranges
from core.data.records import REPEATED, Records, TooManyBad, explain

STALL_S = 300.0  # the usual `stall_s`
LIVES = 4  # deaths of workers at the same sample that end the run
REASON_BYTES, NAME_BYTES = 256, 256

# Random streams. The position comes last in a seed: SeedSequence pads with zeros.
LOAD, REPLACE, TRANSFORM = range(3)  # core/data/loading/sample_order.py has a fourth


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
    stall_s: float = STALL_S,
) -> "Source":
    """A source of endless batches of `records`.

    batch: samples per batch over all hosts.
    seed: 0 <= seed < 2**32. Sample order, crops and masks depend on it.
    workers: processes that load; if 0, `threads` threads of this process load.
    buffer: batches that each worker, or this process, prepares ahead.
    shard: (i, n) for host i of n, which gets every n-th sample of a batch, batch // n.
    shuffle: a new order in every epoch; if False, sample p is record p (modulo their number).
    transform: picklable (item, *, position, rng) -> dict of arrays, such as masks.
    crops: samples per record. If more than one, records give arrays [crops, ...], which
      become consecutive samples.
    max_bad_share: `next` raises TooManyBad if a larger share of samples was replaced.
    max_tries: records tried for one sample before `next` raises TooManyBad.
    stall_s: seconds without any sample before `next` raises SourceFailed.

    Raises ValueError if the batch does not divide over hosts and crops, on a bad shard,
    seed or stall_s, or if there are no records.
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
    if not stall_s > 0:
        raise ValueError(f"data.stall_s is {stall_s}; expected seconds, more than 0")
    load = functools.partial(
        LoadSample,
        records,
        seed=seed,
        tries=max_tries,
        transform=transform,
        crops=crops,
    )
    order = make_order(records, seed=seed, shuffle=shuffle)
    read = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(buffer, threads)
    )
    processes = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=buffer
    )

    def start(position, table):
        """Iterator over this host's batches from a global position on."""
        room = measure_room(
            rows=batch // unit,
            workers=workers,
            buffer=buffer if workers else max(buffer, threads),
        )
        samples = order.map_with_index(load(table=table, room=room))
        # Batched before workers share the work, so their number changes no batch.
        mine = samples[position // crops + index :: count].batch(
            batch // unit, drop_remainder=True
        )
        mine = mine.to_iter_dataset(read)
        if not workers:
            return iter(mine.map(merge_crops) if crops > 1 else mine)
        # grain's workers read a flag, which fails while flags are not parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        begin = functools.partial(begin_worker, table=table)
        ready = mine.mp_prefetch(processes, worker_init_fn=begin)
        ready = ready.map(copy_arrays)
        return iter(ready.map(merge_crops) if crops > 1 else ready)

    def read_from(position):
        begin = functools.partial(start, position)
        return Reading(begin, records, workers=workers, stall_s=stall_s)

    ledger = Ledger(records, max_bad_share, crops)
    return Source(read_from, ledger, batch=batch, shard=shard)


def begin_worker(number, _, *, table: InFlight):
    """The first call in a worker process."""
    end_with_parent()
    table.register(number)


@dataclasses.dataclass(frozen=True)
class LoadSample:
    """(position, record number) -> (sample, report of the records that failed for it).

    A record that fails is replaced by another of the same part, drawn by position.
    """

    records: Records
    _: dataclasses.KW_ONLY
    seed: int
    tries: int
    transform: Callable | None
    crops: int = 1
    table: InFlight
    room: Room

    def __call__(self, position, record):
        failed, blamed = {}, {}
        while True:
            try:
                rng = self._rng(LOAD, len(failed), position)
                with self.table.loading(position, record):
                    item = self.records.load(record, rng)
                break
            except Exception as error:  # noqa: BLE001, counted and reported
                failed[record] = explain(error)
                blamed[record] = getattr(error, "blamed", "")
            record = self._replacement(failed, blamed, position)
        item = dict(item)
        repeated = item.pop(REPEATED, -1)
        if self.transform and self.crops == 1:
            item = self._transform(item, position)
        elif self.transform:
            parts = [{k: x[j] for k, x in item.items()} for j in range(self.crops)]
            first = position * self.crops
            parts = [self._transform(part, first + j) for j, part in enumerate(parts)]
            item = {k: np.stack([part[k] for part in parts]) for k in parts[0]}
        self.room.check(item)
        report = self._report(failed, blamed)
        return item, report | {REPEATED: np.int64(repeated)}

    def _rng(self, stream, attempt, position):
        return np.random.default_rng([self.seed, stream, attempt, position])

    def _replacement(self, failed, blamed, position):
        """A record of the same part that has not failed; depends on the position only."""
        first = next(iter(failed))
        start, stop = next(s for s in part_ranges(self.records) if first < s[1])
        n = stop - start
        if len(failed) == min(self.tries, n):
            names = list_bad(
                (blamed[r] or self.records.name(r), x) for r, x in failed.items()
            )
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
            # An exception of another type may not unpickle here, and then grain hangs.
            message = f"the transform of sample {position} failed: {explain(error)}"
            raise RuntimeError(message) from error

    def _report(self, failed, blamed):
        """Numbers of the failed records [tries], else -1, their reasons [tries], and the
        names [tries] of other recordings that are to blame, else empty.
        """
        record = np.full(self.tries, -1, np.int64)
        reason = np.zeros(self.tries, f"S{REASON_BYTES}")
        name = np.zeros(self.tries, f"S{NAME_BYTES}")
        for k, (r, text) in enumerate(failed.items()):
            record[k], reason[k] = r, text.encode(errors="replace")[:REASON_BYTES]
            name[k] = blamed[r].encode(errors="replace")[-NAME_BYTES:]
        return {"record": record, "reason": reason, "blamed": name}


class Source:
    """Batches of this host, their cursor, and the count of bad samples.

    Implements core.method.Source; made by `make_source`. Nothing is loaded, and no process
    is started, before the first `next`.

    start: position -> Reading.
    """

    def __init__(self, start: Callable, ledger: Ledger, *, batch, shard):
        self.start, self.ledger = start, ledger
        self.batch, self.shard = batch, shard
        self.next_index = 0
        self.running: list = []  # the Reading, once `next` was called
        # Without this, a program that ends without `close` shows errors of grain's threads.
        weakref.finalize(self, _close, self.running)

    def next(self, state=None, stopping=never) -> dict[str, np.ndarray]:
        """The next batch, {name: [batch // hosts, ...]}.

        state: not used; this source is offline. Raises Stopped if `stopping()` while there
        is no batch, TooManyBad if too many records could not be read, SourceFailed if
        nothing comes or workers die again and again, and RuntimeError if the transform
        fails. After an error the next call tries the same batch again.
        """
        item, report = self._pull(stopping)
        index, count = self.shard
        first, crops = self.next_index, self.ledger.crops
        self.next_index += self.batch
        positions = range(first + index * crops, self.next_index, count * crops)
        self.ledger.add(positions, report)
        return item

    def _pull(self, stopping):
        for life in range(1, LIVES + 1):
            try:
                if not self.running:
                    self.running.append(self.start(self.next_index))
                return self.running[0].next(stopping)
            except Stopped:
                raise
            except Exception as error:
                waits_for = self.running[0].waits_for() if self.running else ""
                self.close()  # else grain would skip the failed worker's batches
                if "terminated unexpectedly with exit code" not in str(error):
                    raise
                code = str(error).partition("exit code ")[2].partition(".")[0]
                death = f"at sample {self.next_index}, death {life} of {LIVES}"
                death += f", exit code {code}"
                logging.warning("A data worker died %s, %s", death, waits_for)
        raise SourceFailed(
            f"a data worker died {death}, {waits_for}; code -9 usually means too little "
            "memory (lower data.workers or batch), -7 too little /dev/shm, -11 a crash of "
            "the decoder (remove that record)"
        )

    def get_state(self) -> dict[str, int]:
        """The cursor: "next_index", samples consumed by all hosts; "seen", "bad" and
        REPEATED here.
        """
        account = {"seen": self.ledger.seen, "bad": self.ledger.bad}
        return {"next_index": self.next_index, **account, **self.ledger.numbers()}

    def set_state(self, state: dict[str, int]):
        """Continue at a cursor; batch size and hosts may differ from when it was saved."""
        self.close()
        self.next_index = state["next_index"]
        self.ledger.seen, self.ledger.bad = state["seen"], state["bad"]
        # Cursors before this was counted lack it.
        self.ledger.repeated = state.get(REPEATED)

    def report(self) -> SourceReport:
        """Samples seen and replaced on this host; "new": failures since the last call, as
        {"name", "reason", "position"}; "numbers": those of the ledger.
        """
        new, self.ledger.new = self.ledger.new, []
        seen, bad = self.ledger.seen, self.ledger.bad
        return {"seen": seen, "bad": bad, "new": new, "numbers": self.ledger.numbers()}

    def fingerprint(self) -> list[dict]:
        """The fingerprint of the data set (core/data/fingerprint.py)."""
        return fingerprint(self.ledger.records)

    def close(self):
        """Stop threads and processes; `next` starts them again."""
        _close(self.running)


def copy_arrays(batch):
    """Copy arrays out of shared memory, which ends with the workers and is slow to read."""
    return tuple({k: np.array(x) for k, x in arrays.items()} for arrays in batch)


def merge_crops(batch):
    """Make crops consecutive samples: [b, crops, ...] -> [b * crops, ...]."""
    item, report = batch
    return {k: x.reshape(-1, *x.shape[2:]) for k, x in item.items()}, report


def _close(iterators):
    while iterators:
        iterators.pop().close()
