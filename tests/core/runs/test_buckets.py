"""Runs in buckets: as in a folder, also when killed, refused or cut off from the bucket."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import bucket_servers
import jax
import pytest
from small import ROOT, record, use_one_device
from toy.summing import config

from core.base import buckets, locks
from core.base.bucket_lock import hold_in_bucket, is_held
from core.runs import checkpoint, integrity, lineage, mirror, restore
from core.runs.checkpoint import CheckpointError
from core.train import fit


@pytest.fixture(scope="module")
def s3():
    with bucket_servers.serve_s3() as server:
        yield server


@pytest.fixture(scope="module")
def gs():
    with bucket_servers.serve_gs():
        yield


@pytest.fixture(params=["s3", "gs"])
def place(request):
    """A new address in a bucket."""
    request.getfixturevalue(request.param)
    name = f"{request.param}://{bucket_servers.NAME}/{time.monotonic_ns()}"
    return buckets.bucket_path(name, what="--workdir")


@pytest.fixture(autouse=True)
def fast(monkeypatch, tmp_path_factory):
    use_one_device(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("mirrors")))
    monkeypatch.setattr(locks, "BEAT_S", 0.1)
    monkeypatch.setattr(locks, "STALE_S", 4.0)


def fail(*_):
    raise AssertionError


def total(state) -> float:
    return float(state.params["total"])


def saved(place) -> list[int]:
    return checkpoint.steps_in(place / "checkpoints")


def test_objects_are_written_listed_and_removed(place):
    for name in ("a", "b/c", "checkpoints/1/x"):
        buckets.write(place / name, name.encode())
    buckets.write(place / "a", b"again")
    assert buckets.read(place / "a") == b"again"
    assert buckets.names_below(place) == ["a", "b/c", "checkpoints/1/x"]
    assert buckets.names_below(place, without=("checkpoints", "a")) == ["b/c"]
    assert buckets.names_below(place / "none") == []
    for _ in range(2):
        buckets.remove(place / "a")
    with pytest.raises(FileNotFoundError):
        buckets.read(place / "a")
    with pytest.raises(buckets.BucketError, match="no such bucket"):
        buckets.write(str(place).replace(bucket_servers.NAME, "none"), b"")


def test_a_lock_is_held_refused_and_given_up_by_the_dead(place):
    lock = place / ".lock"
    with hold_in_bucket(lock, "is training", lost=fail):
        assert is_held(lock)
        with pytest.raises(ValueError, match="is training: it gave a sign just now"):
            with hold_in_bucket(lock, "is training", lost=fail):
                fail()
    assert not is_held(lock)
    buckets.write(lock, json.dumps({"key": "1", "holder": "one that died"}).encode())
    said, begin = [], time.monotonic()
    with hold_in_bucket(lock, "trains", lost=fail, say=said.append):
        assert 0 < time.monotonic() - begin < 30 and "one that died trains" in said[0]


def test_a_holder_whose_lock_was_taken_is_told(place):
    told = []
    with hold_in_bucket(place / ".lock", "trains", lost=told.append):
        taken = json.dumps({"key": "2", "holder": "process 7"}).encode()
        buckets.write(place / ".lock", taken)
        end = time.monotonic() + 20
        while not told and time.monotonic() < end:
            time.sleep(0.05)
    assert told[0] == "process 7"
    assert buckets.read(place / ".lock") == taken  # the other one's stays


def test_a_lock_is_created_only_once(s3):
    """moto knows the condition; the emulator of gs:// ignores it."""
    place = f"s3://{bucket_servers.NAME}/once"
    assert buckets.write(place, b"1", new=True)
    assert not buckets.write(place, b"2", new=True) and buckets.read(place) == b"1"


def test_a_mirror_sends_what_changed_and_removes_what_is_gone(place):
    for name in ("kept", "gone", "in/it", "checkpoints/1/x", "replay/x"):
        buckets.write(place / name, b"old")
    run = mirror.Mirror(str(place), what="--workdir")
    run.fetch(without=("replay",))
    files = {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*")}
    assert files == {mirror.ADDRESS, "kept", "gone", "in", "in/it"}
    assert mirror.shown(run.folder) == str(place)
    buckets.write(place / "kept", b"of another process")  # unchanged here: it stays
    (run.folder / "in" / "it").write_text("new")
    (run.folder / "big").write_bytes(b"0" * 100)
    (run.folder / "gone").unlink()
    run.send(most=50)
    assert buckets.read(place / "in" / "it") == b"new"
    names = {"checkpoints/1/x", "in/it", "kept", "replay/x"}
    assert set(buckets.names_below(place)) == names
    run.send()
    assert set(buckets.names_below(place)) == names | {"big"}
    assert buckets.read(place / "kept") == b"of another process"
    run.remove()
    assert not run.folder.exists()


def test_lines_that_another_process_appended_are_kept():
    there, here = b"a\nb\n", b"a\nc"
    assert mirror.with_lines(there, here) == b"a\nb\nc\n"


def test_a_run_in_a_bucket_is_that_of_a_folder(gs, tmp_path):
    address = f"gs://{bucket_servers.NAME}/run"
    fit(config(steps=2), address)  # that of a folder, in two parts
    state = fit(config(steps=4), address, allow_config_change=True)
    fit(config(steps=4), tmp_path)
    place = buckets.bucket_path(address, what="--workdir")
    assert total(state) == 6 and saved(place) == [2, 4]
    assert not is_held(place / ".lock")
    opened = restore.open_run(address, 2)
    assert total(opened.read(jax.sharding.Mesh(jax.devices()[:1], "data"))[0]) == 1
    lineage.append(opened.lineage, lineage.EXPORT, {"x": 1})
    opened.send()
    assert b'"x": 1' in buckets.read(place / lineage.LINEAGE)
    assert record(opened.folder) == record(tmp_path)


KILLED = """
import sys, time
sys.path.insert(0, "tests")
from toy import summing
from core.train import fit
step = summing.Positions.next
def slow(self, *rest):
    time.sleep(1 if self.position > 25 else 0)
    return step(self, *rest)
summing.Positions.next = slow
fit(summing.config(steps=40, save_steps=20), sys.argv[1])
"""


def test_a_killed_run_goes_on_elsewhere_bit_for_bit(s3, tmp_path, monkeypatch):
    address = f"s3://{bucket_servers.NAME}/killed"
    place = buckets.bucket_path(address, what="--workdir")
    settings = config(steps=40, save_steps=20)
    job = subprocess.Popen(
        [sys.executable, "-c", KILLED, address],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"XLA_FLAGS": "", "TMPDIR": str(tmp_path)},
    )
    end = time.monotonic() + 100
    while not saved(place) and job.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    monkeypatch.setattr(locks, "STALE_S", 60.0)
    with pytest.raises(ValueError, match=r"process \d+ on .* is training in s3://"):
        fit(settings, address)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL and saved(place) == [20]
    monkeypatch.setattr(locks, "STALE_S", 4.0)
    state = fit(settings, address)
    whole = fit(settings, tmp_path / "whole")
    assert total(state) == total(whole) == sum(range(40))
    assert record(restore.open_run(address).folder) == record(tmp_path / "whole")


def test_a_bucket_that_fails_for_a_while_is_waited_for(s3):
    address = f"s3://{bucket_servers.NAME}/away"
    begun = []

    def refuse(method, path):
        """From the write of step 2 on, two seconds."""
        if "checkpoints/2/" in path and not begun:
            begun.append(time.monotonic())
        return 503 if begun and time.monotonic() - begun[0] < 2 else None

    s3.refuse = refuse
    try:
        assert total(fit(config(steps=2), address)) == 1
    finally:
        s3.refuse = lambda *_: None
    assert begun and saved(buckets.bucket_path(address, what="x")) == [2]


def test_what_a_bucket_refuses_or_damages_harms_no_other_checkpoint(
    s3, capfd, monkeypatch
):
    monkeypatch.setattr(checkpoint, "PAUSES", (0.0, 0.0))
    address, settings = f"s3://{bucket_servers.NAME}/refusing", config(steps=6)
    s3.refuse = lambda method, path: (
        403 if method == "PUT" and "checkpoints/6/state" in path else None
    )
    try:
        with pytest.raises(
            CheckpointError, match=r"checkpoints/6 cannot be.* step 4 is intact"
        ):
            fit(settings, address)
    finally:
        s3.refuse = lambda *_: None
    assert capfd.readouterr().out.count("trying again") == 2
    place = buckets.bucket_path(address, what="--workdir") / "checkpoints"
    assert checkpoint.steps_in(place) == [2, 4] and not integrity.damage(place / "4")
    part = next((place / "4" / "state" / "d").iterdir())
    buckets.write(part, buckets.read(part)[:-1])
    assert total(fit(settings, address)) == 15
    out = capfd.readouterr().out
    assert "checkpoints/4 is damaged (state/" in out and "resumed from step 2" in out
    assert (place.parent / "set_aside" / "4" / "state").is_dir()


@pytest.mark.parametrize("kind", buckets.PACKAGES)
def test_a_missing_package_is_named(monkeypatch, kind):
    def missing(protocol):
        raise ImportError(f"Please install the package of {protocol}")

    monkeypatch.setattr("fsspec.filesystem", missing)
    package = buckets.PACKAGES[kind]
    with pytest.raises(ValueError, match=f"{package}: pip install -r requirements-c"):
        fit(config(), f"{kind}://{bucket_servers.NAME}/run")
