"""Signals: what they end, when, and what they must not reach."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import pytest

from core import train
from core.base.processes import ignore_parent_signals
from core.base.waiting import Stopped
from core.parallel.mesh import make_mesh
from core.runs import maintenance, preemption
from core.runs.preemption import Preempted, nothing_to_save, stop_on_signals

NUMBERS = [
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shorter times, and the handlers of a fresh process."""
    monkeypatch.setattr(preemption, "GRACE_S", 0.2)
    monkeypatch.setattr(preemption, "AGAIN_S", 0.05)
    before = {n: signal.signal(n, signal.SIG_DFL) for n in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number, after=0.1):
    """Send a signal to this process from a thread."""
    threading.Timer(after, os.kill, (os.getpid(), number)).start()


@pytest.mark.parametrize("number", NUMBERS)
def test_every_stop_signal_requests_a_stop_that_becomes_overdue(number):
    with stop_on_signals() as stopping:
        assert not stopping() and not stopping.overdue()
        signal.raise_signal(number)
        assert stopping() and not stopping.overdue()
        with pytest.raises(Stopped):
            stopping.check()
        time.sleep(0.3)  # the timer interrupts nothing here
        assert stopping.overdue()
    assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def wait_for_stop(state, watch):
    """An evaluation in which signals are not seen, but that asks."""
    while not watch.stopping():
        time.sleep(0.01)
    raise Stopped


def test_an_evaluation_that_takes_long_is_broken_off(monkeypatch):
    caught = []

    def hang(state, watch):
        send(signal.SIGUSR1, after=0.0)
        for _ in range(2):
            try:
                time.sleep(20)
            except BaseException as error:
                caught.append(type(error))
                if len(caught) == 2:  # the first is lost, as in a callback
                    raise

    evaluation = lambda step, name, evaluate, state: evaluate(state)  # noqa: E731
    mesh = make_mesh(fsdp=-1, devices=jax.devices()[:1])
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with stop_on_signals() as stopping:
        begin = time.monotonic()
        given = {
            "program": types.SimpleNamespace(mesh=mesh, device_layouts=layout),
            "reporter": types.SimpleNamespace(evaluation=evaluation),
            "stopping": stopping,
        }
        assert train.run_evals({"quick": lambda state, watch: None}, 1, 0, **given)
        assert not train.run_evals({"long": hang}, 1, 0, **given)
        asks = {"asks": wait_for_stop}  # for those that no signal interrupts
        stopping.grace = float("inf")
        with monkeypatch.context() as patch:
            patch.setattr(stopping, "requested", False)
            patch.setattr(stopping, "breakable", lambda evaluate: evaluate)
            assert not train.run_evals(asks, 1, 0, **given)
    assert caught == [preemption.Interrupted] * 2
    assert 0.2 <= time.monotonic() - begin < 10


def test_a_wait_before_there_is_anything_to_save_ends_at_once(tmp_path):
    os.mkfifo(tmp_path / "dead")
    with stop_on_signals() as stopping:
        send(signal.SIGTERM)
        with pytest.raises(Preempted, match="nothing new to save in a_run"):
            with nothing_to_save(stopping, "a_run"):
                open(tmp_path / "dead")  # never answers
        with pytest.raises(Preempted), nothing_to_save(stopping, "a_run"):
            pytest.fail("begins although a stop was requested")
    with stop_on_signals() as stopping, pytest.raises(KeyboardInterrupt):
        with nothing_to_save(stopping, "a_run"):
            signal.raise_signal(signal.SIGINT)


def test_a_hangup_that_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals() as stopping:
        signal.raise_signal(signal.SIGHUP)
        assert not stopping()


def test_children_do_not_receive_signals_of_the_group():
    with ignore_parent_signals():
        child = subprocess.Popen(["sleep", "60"])
    for number in NUMBERS:
        child.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.2)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def test_a_thread_that_hangs_does_not_keep_the_process():
    code = (
        "import threading; from launch import cli; cli.LEAVE_S = 0.2\n"
        "threading.Thread(target=threading.Event().wait).start(); cli.leave(75)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 75


class Metadata(http.server.BaseHTTPRequestHandler):
    """A metadata server of Google's, which answers only requests with its header."""

    answers = {"maintenance-event": "NONE", "preempted": "FALSE"}

    def do_GET(self):
        known = self.path.startswith("/computeMetadata/v1/instance/")
        known &= self.headers["Metadata-Flavor"] == "Google"
        self.send_response(200 if known else 403)
        self.end_headers()
        self.wfile.write(self.answers[self.path.rpartition("/")[2]].encode())

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    "key, value, stops",
    [
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", True),
        ("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", False),
        ("preempted", "TRUE", True),
    ],
)
def test_a_notice_of_maintenance_stops(monkeypatch, key, value, stops):
    monkeypatch.setattr(maintenance, "LOOK_S", 0.05)
    monkeypatch.setattr(Metadata, "answers", dict(Metadata.answers))
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        with stop_on_signals() as stopping:
            time.sleep(0.2)
            assert not stopping()
            Metadata.answers[key] = value
            end = time.monotonic() + (10 if stops else 0.3)
            while not stopping() and time.monotonic() < end:
                time.sleep(0.02)
            assert stopping() is stops
        server.shutdown()
