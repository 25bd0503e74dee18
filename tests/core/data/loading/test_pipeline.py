"""The pipeline: samples by position, replacement of bad records, exact resume."""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
from numbered import Numbers, add_mask, assert_same, take

from core.base.memory import free_memory
from core.base.waiting import SourceFailed, Stopped
from core.data.loading import pipeline, reading, room
from core.data.loading.bad_samples import Ledger
from core.data.loading.pipeline import make_source
from core.data.loading.room import Room, measure_room
from core.data.records import BadSample, TooManyBad


def break_at_nine(item, *, position, rng):
    if position == 9:
        raise KeyError("mask")
    return item


def source_of(records, *, batch=8, seed=3, **kw):
    return make_source(records, batch=batch, seed=seed, transform=add_mask, **kw)


@pytest.fixture(scope="module")
def reference():
    """The first 64 samples of 20 numbers, two of them bad."""
    source = source_of(Numbers(20, bad=[4, 7]), max_bad_share=0.5)
    samples = take(source, 8)
    source.close()
    return samples, source.report()


def test_a_sample_is_a_function_of_its_position(reference):
    samples, _ = reference
    np.testing.assert_array_equal(samples["position"], np.arange(64))
    assert len({tuple(noise) for noise in samples["noise"]}) == 64
    assert not np.isin(samples["mask"][:, 0], samples["noise"]).any()


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("batch", [1, 16])
def test_threads_and_batch_size_change_nothing(reference, threads, batch):
    records = Numbers(20, bad=[4, 7])
    source = source_of(records, batch=batch, threads=threads, max_bad_share=0.5)
    assert_same(take(source, 64 // batch), reference[0])
    source.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(reference, workers):
    records = Numbers(20, bad=[4, 7])
    source = source_of(records, workers=workers, max_bad_share=0.5)
    try:
        assert_same(take(source, 8), reference[0])
        assert source.report() == reference[1]
    finally:
        source.close()


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_the_global_batch(reference, hosts):
    whole = {k: np.zeros_like(v) for k, v in reference[0].items()}
    new = []
    for host in range(hosts):
        records = Numbers(20, bad=[4, 7])
        source = source_of(records, shard=(host, hosts), max_bad_share=0.5)
        part = take(source, 8)
        for k, v in part.items():
            whole[k][host::hosts] = v
        assert source.get_state()["next_index"] == 64
        new += source.report()["new"]
        source.close()
    assert_same(whole, reference[0])
    assert sorted(new, key=str) == sorted(reference[1]["new"], key=str)


def test_resume_is_exact_with_another_batch_size_and_hosts(reference):
    records = Numbers(20, bad=[4, 7])
    first = source_of(records, batch=4, max_bad_share=0.5)
    take(first, 6)
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    assert state["next_index"] == state["seen"] == 24
    again = source_of(records, batch=20, max_bad_share=0.5)
    again.set_state(state)
    rest = take(again, 2)
    assert_same(rest, {k: v[24:] for k, v in reference[0].items()})
    assert {k: again.report()[k] for k in ("seen", "bad")} == {
        k: reference[1][k] for k in ("seen", "bad")
    }
    again.set_state({"next_index": 0, "seen": 0, "bad": 0})
    assert_same(take(again, 1), {k: v[:20] for k, v in reference[0].items()})
    again.close()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 4), (4, 1), (2, 4)])
def test_the_number_of_hosts_may_change_within_an_epoch(reference, before, after):
    """24 samples of epochs of 20 on some hosts, the rest on others: every record once."""

    def part(host, hosts, state=None, batches=3):
        records = Numbers(20, bad=[4, 7])
        source = source_of(records, shard=(host, hosts), max_bad_share=0.5)
        if state:
            source.set_state(state)
        found = take(source, batches)
        state = source.get_state()
        source.close()
        return found, state

    def joined(parts):
        count = len(parts)
        whole = {
            k: np.zeros((count * len(x), *x.shape[1:]), x.dtype)
            for k, x in parts[0].items()
        }
        for host, one in enumerate(parts):
            for k, x in one.items():
                whole[k][host::count] = x
        return whole

    first = [part(host, before) for host in range(before)]
    state = json.loads(json.dumps(first[0][1]))
    rest = [part(host, after, state, batches=5)[0] for host in range(after)]
    both = joined([found for found, _ in first]), joined(rest)
    assert_same(
        {k: np.concatenate([x[k] for x in both]) for k in both[0]}, reference[0]
    )
    for epoch in range(3):
        records = reference[0]["record"][20 * epoch : 20 * epoch + 20].ravel().tolist()
        assert set(range(20)) - {4, 7} <= set(records)  # the bad two are replaced


def test_every_epoch_is_another_order_and_seeds_differ():
    def epochs(seed):
        source = source_of(Numbers(20), batch=20, seed=seed)
        orders = [tuple(source.next()["record"][:, 0]) for _ in range(3)]
        source.close()
        return orders

    orders = epochs(0) + epochs(1)
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(orders)) == 6


def test_endless_records_in_their_own_order():
    source = source_of(Numbers(2**31 - 1), shuffle=False)
    np.testing.assert_array_equal(take(source, 2)["record"][:, 0], np.arange(16))
    source.close()
    source = source_of(Numbers(5), shuffle=False)
    np.testing.assert_array_equal(take(source, 2)["record"][:, 0], np.arange(16) % 5)
    source.close()


def test_nothing_starts_before_the_first_sample(monkeypatch):
    monkeypatch.setattr(Numbers, "load", None)
    source = source_of(Numbers(5), workers=2)
    source.set_state({"next_index": 40, "seen": 40, "bad": 0})
    assert not source.running
    assert source.get_state() == {"next_index": 40, "seen": 40, "bad": 0}
    account = {"seen": 40, "bad": 0, "new": [], "numbers": {}}
    assert source.report() == account
    source.close()


def test_bad_records_are_replaced_counted_and_reported(reference):
    samples, report = reference
    assert not np.isin(samples["record"], [4, 7]).any()
    whole = source_of(Numbers(20), max_bad_share=0.5)
    intended = take(whole, 8)["record"][:, 0]
    whole.close()
    hit = np.isin(intended, [4, 7])
    assert report["seen"] == 64 and report["bad"] == hit.sum()
    np.testing.assert_array_equal(samples["record"][~hit, 0], intended[~hit])
    reported = {(e["position"], e["name"]) for e in report["new"]}
    assert {(p, f"number {intended[p]}") for p in np.flatnonzero(hit)} <= reported
    assert {e["reason"] for e in report["new"]} == {"rotten"}
    assert len(report["new"]) >= report["bad"]


def test_any_exception_of_load_counts_with_its_type():
    records = Numbers(20, bad=[4], error=ZeroDivisionError)
    source = source_of(records, batch=20, max_bad_share=0.5)
    source.next()
    [event] = source.report()["new"]
    assert event["name"] == "number 4" and 0 <= event["position"] < 20
    assert event["reason"] == "ZeroDivisionError: rotten"
    assert source.report()["new"] == []
    source.close()


def test_too_many_bad_raise_naming_share_limit_and_records():
    source = source_of(Numbers(100, bad=range(10)))
    with pytest.raises(TooManyBad) as error:
        take(source, 50)
    assert source.get_state()["seen"] == 200  # fewer are not checked
    for part in ("of the last 200 samples", "the numbers", "(rotten)"):
        assert part in str(error.value)
    assert "data.max_bad_share = 0.01" in str(error.value)
    source.close()


def blame_another(reason):
    error = BadSample(reason)
    error.blamed = "number 99"
    return error


def test_another_recording_than_the_record_may_be_to_blame():
    source = source_of(Numbers(20, bad=[4], error=blame_another), max_bad_share=0.5)
    take(source, 5)
    assert {x["name"] for x in source.report()["new"]} == {"number 99"}
    source = source_of(Numbers(2, bad=range(2), error=blame_another))
    with pytest.raises(TooManyBad, match="number 99 .rotten., number 99 .rotten."):
        source.next()


def test_only_bad_records_raise_at_once():
    source = source_of(Numbers(100, bad=range(100)))
    with pytest.raises(TooManyBad, match="none of the 8 records tried for sample 0"):
        source.next()
    source = source_of(Numbers(2, bad=range(2)))
    with pytest.raises(TooManyBad, match="none of the 2 records"):
        source.next()
    ledger = Ledger(Numbers(400), limit=0.01)
    report = {"record": np.zeros((7, 1), int), "reason": np.full((7, 1), b"rotten")}
    report |= {"blamed": np.full((7, 1), b""), "repeated_frames": np.full(7, -1)}
    ledger.add(range(7), report)
    with pytest.raises(TooManyBad, match="of the last 14 samples .100.0%"):
        ledger.add(range(7), report)


def test_a_failing_transform_is_a_bug_not_a_bad_sample():
    source = make_source(Numbers(20), batch=8, seed=0, transform=break_at_nine)
    source.next()
    for _ in range(2):  # fails again: nothing is skipped
        with pytest.raises(
            RuntimeError, match="transform of sample 9 failed: KeyError"
        ):
            source.next()
    assert source.get_state()["next_index"] == 8


def test_errors_of_workers_reach_the_caller():
    records = Numbers(20, bad=range(20))
    source = make_source(records, batch=8, seed=0, workers=1)
    with pytest.raises(TooManyBad, match="none of the 8 records tried for sample 0"):
        source.next()
    assert not multiprocessing.active_children()


def test_a_killed_worker_changes_nothing(reference):
    records = Numbers(20, bad=[4, 7])
    source = source_of(records, batch=4, workers=2, buffer=1, max_bad_share=0.5)
    before, [iterator] = take(source, 2), source.running
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    after = take(source, 14)  # more than is prefetched by now
    assert source.running != [iterator]  # the iterator was replaced
    source.close()
    samples = {k: np.concatenate([before[k], after[k]]) for k in before}
    assert_same(samples, reference[0])


def test_a_sample_that_kills_its_worker_ends_the_run(monkeypatch):
    monkeypatch.setattr(pipeline, "LIVES", 2)
    source = source_of(Numbers(20, fatal=range(20)), workers=1)
    words = r"at sample 0, death 2 of 2, exit code -9, waiting for number \d+ "
    with pytest.raises(SourceFailed, match=words):
        source.next()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_record_that_never_ends_is_named_and_ends_the_wait(
    monkeypatch, caplog, workers
):
    monkeypatch.setattr(reading, "CLOSE_S", 0.3)
    monkeypatch.setattr(reading, "POLL_S", 0.05)
    records = Numbers(20, stuck=[7])
    source = source_of(records, batch=1, workers=workers, shuffle=False)
    take(source, 7)
    source.running[0].stall_s = 1.0  # workers take longer to start
    with pytest.raises(Stopped):
        source.next(stopping=lambda: True)
    words = (
        r"no sample was read for 1 s \(data.stall_s\), waiting for number 7 \(for 0:0"
    )
    with pytest.raises(SourceFailed, match=words):
        source.next()
    (warning,) = [text for text in caplog.messages if "No sample" in text]
    assert "waiting for number 7 (for 0:00)" in warning
    assert source.get_state() == {"next_index": 7, "seen": 7, "bad": 0}
    assert not multiprocessing.active_children()  # killed, since it hangs
    Numbers.release.set()
    Numbers.release = threading.Event()


def test_buffers_that_do_not_fit_are_refused(monkeypatch):
    sample = {"video": np.zeros((2, 1000), np.uint8), "mask": np.zeros(125, np.int64)}
    fits = Room(rows=10, workers=2, ahead=6, shared=420_000, memory=450_000)
    fits.check(sample)
    small = dataclasses.replace(fits, shared=419_999)
    words = (
        "data.workers=2 need up to 0.42 MB of /dev/shm, .*use --config.data.workers=1"
    )
    with pytest.raises(ValueError, match=words):
        small.check(sample)
    dataclasses.replace(small, workers=0).check(sample)
    with pytest.raises(
        ValueError, match="need up to 0.45 MB of memory, .*workers=1 or a"
    ):
        dataclasses.replace(fits, memory=449_999).check(sample)
    monkeypatch.setattr(room, "files_left", lambda: 150)
    with pytest.raises(
        ValueError, match="workers=3 need 192 more .*--config.data.workers=2"
    ):
        measure_room(rows=1, workers=3, buffer=2)
    monkeypatch.setattr(room, "free_memory", lambda: 100.0)
    with pytest.raises(
        ValueError, match="workers=0 need up to .* use a smaller --config.b"
    ):
        source_of(Numbers(20)).next()


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8 kB\n"}, 8192),
        (
            {"sys/fs/cgroup/memory.max": "5000", "sys/fs/cgroup/memory.current": "900"},
            4100,
        ),
        (
            {
                "sys/fs/cgroup/memory.max": "5000",
                "sys/fs/cgroup/memory.current": "900",
                "sys/fs/cgroup/memory.stat": "anon 3\ninactive_file 400\n",
            },
            4500,
        ),
        ({"sys/fs/cgroup/memory.max": "max"}, np.inf),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "70"}, 70),
    ],
)
def test_free_memory_is_what_the_machine_and_the_container_leave(tmp_path, files, free):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == free


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"batch": 10, "shard": (0, 4)},
            "batch 10 does not divide over 4.*use 8 or 12",
        ),
        ({"shard": (4, 4)}, "expected .i, n. with 0 <= i < n"),
        ({"seed": -1}, "seed is -1"),
        ({"stall_s": 0}, "data.stall_s is 0; expected seconds"),
        ({"records": Numbers(0)}, "the numbers has no records"),
    ],
)
def test_mistakes_raise_at_once(change, words):
    kw = {"records": Numbers(4), "batch": 8, "seed": 0, **change}
    with pytest.raises(ValueError, match=words):
        make_source(kw.pop("records"), **kw)
