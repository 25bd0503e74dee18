"""An interrupted run equals an uninterrupted one, bit for bit."""

import contextlib
import functools
import os
import pathlib
import signal
import socket
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from small import record, small, start, use_one_device

from core import train
from core.base.waiting import Stopped
from core.config import load_method
from core.data.bodies.world import World
from core.data.loading.pipeline import Source
from core.data.records import BadSample
from core.parallel.mesh import make_mesh
from core.program import build_program
from core.runs import checkpoint
from core.runs.preemption import Preempted

EVERY = {"first": 2, "second": 2, "final": 0}
HANDLERS = [
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGUSR1, signal.SIG_DFL),
    (signal.SIGUSR2, signal.SIG_DFL),
    (signal.SIGALRM, signal.SIG_DFL),
]
# (event at which a signal arrives, the signal, the newest step saved afterwards).
STOPS = [
    (("batch", 1), signal.SIGTERM, 1),
    (("first", 2), signal.SIGINT, 2),
    (("second", 4), signal.SIGUSR1, 4),
    (("no batch", 6), signal.SIGHUP, 5),
    (("first", 6), signal.SIGUSR2, 6),
    (("second", 6), signal.SIGTERM, 6),
]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture
def happens(monkeypatch):
    """(log of (event, step), signals to raise at an event, programs that were built)."""
    seen, plans = [], []
    signals = {}

    def note(what, step):
        seen.append((what, step))
        if (what, step) in signals:
            signal.raise_signal(signals.pop((what, step)))

    def evaluation(name):
        def evaluate(state, watch):
            note(name, int(state.step))
            return {
                f"{name}_mean": float(state.params["encoder"]["norm"]["scale"].mean())
            }

        return evaluate

    def loaded(config):
        return load_method(config)._replace(
            evals={name: evaluation(name) for name in EVERY}
        )

    def next_batch(self, state, stopping, next_batch=Source.next):
        step = self.next_index // self.batch + 1
        if ("no batch", step) in signals:
            signal.raise_signal(signals.pop(("no batch", step)))
            while not stopping():
                time.sleep(0.01)
            raise Stopped
        note("batch", step)
        return next_batch(self, state, stopping)

    def clip(self, index, rng=None, clip=World.load):
        if index in (11, 30):
            raise BadSample("rotten")
        return clip(self, index, rng)

    def build(*args, build=build_program, **kw):
        plans.append(build(*args, **kw))
        return plans[-1]

    # A shell starts background processes with Ctrl-C ignored.
    before = [signal.signal(*handler) for handler in HANDLERS]
    use_one_device(monkeypatch)
    monkeypatch.setattr(train, "load_method", loaded)
    monkeypatch.setattr(train, "build_program", build)
    monkeypatch.setattr(Source, "next", next_batch)
    monkeypatch.setattr(World, "load", clip)
    yield seen, signals, plans
    for (number, _), handler in zip(HANDLERS, before, strict=True):
        signal.signal(number, handler)


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path, happens, capfd
):
    seen, signals, plans = happens
    config = small(steps=6, save_steps=3)
    config.eval_steps = ConfigDict(EVERY)
    whole = train.fit(config, tmp_path / "whole")
    once = seen.copy()
    for event, number, step in STOPS:
        signals[event] = number
        with pytest.raises(Preempted, match=f"stopped at step {step}; .*resumes from"):
            train.fit(config, tmp_path / "parts")
        assert not signals
        assert checkpoint.steps_in(tmp_path / "parts" / "checkpoints")[-1] == step
    assert [(number, signal.getsignal(number)) for number, _ in HANDLERS] == HANDLERS
    again = train.fit(config, tmp_path / "parts")
    assert_same(whole, again)
    assert (
        seen[len(once) :] == once
    )  # each batch and evaluation once, in the same order
    assert record(tmp_path / "whole") == record(tmp_path / "parts")
    assert len(record(tmp_path / "whole")["bad_samples"].splitlines()) == 2
    assert all(plan.step._cache_size() <= 1 for plan in plans)  # one compile per run

    capfd.readouterr()
    seen.clear()
    before = (tmp_path / "parts" / "metrics.jsonl").read_bytes()
    assert_same(train.fit(config, tmp_path / "parts"), whole)
    assert not seen and "is finished: 6 steps" in capfd.readouterr().out
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == before

    config.steps = 7
    train.fit(config, tmp_path / "parts", allow_config_change=True)
    assert seen == [("batch", 7), ("first", 7), ("second", 7), ("final", 7)]


@pytest.fixture
def command():
    """`start`; kills what a failed test leaves running."""
    with contextlib.ExitStack() as stack:

        def started(*args):
            process = stack.enter_context(start(*args))
            stack.callback(process.kill)
            return process

        yield started


def read_until(process, words):
    """Read lines of stdout up to one that contains `words`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    pytest.fail(f"{words!r} never came: {lines} {process.stderr.read()}")


def kill_while_saving(process, folder):
    """SIGKILL while a checkpoint is partly written; SIGSTOP makes sure that it is."""
    while process.poll() is None:
        if list(folder.glob("*-tmp")):
            process.send_signal(signal.SIGSTOP)
            if list(folder.glob("*-tmp")) and checkpoint.steps_in(folder):
                process.kill()
                process.communicate()
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    pytest.fail(f"no checkpoint was seen partly written: {process.communicate()}")


def running(group) -> list[str]:
    """The commands of a process group that still run."""
    stats = [path.read_text() for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
    fields = [stat.rpartition(") ") for stat in stats]
    return [
        head for head, _, rest in fields
        if rest.split()[2] == str(group) and rest.split()[0] != "Z"
    ]  # fmt: skip


def test_killed_and_interrupted_commands_resume(tmp_path, command):
    config = small(steps=9, save_steps=1, data__workers=2)
    parts, folder = tmp_path / "parts", tmp_path / "parts" / "checkpoints"
    process = command(config, parts)
    kill_while_saving(process, folder)
    saved, partial = checkpoint.steps_in(folder)[-1], list(folder.glob("*-tmp"))
    assert partial
    for _ in range(100):  # the workers notice and end
        if not running(process.pid):
            break
        time.sleep(0.1)
    assert not running(process.pid)

    process = command(config, parts)
    lines = read_until(process, f"step {saved + 2}/")
    assert any(f"resuming after step {saved} " in line for line in lines)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        os.killpg(process.pid, number)  # as a terminal does, to the workers as well
    out, err = process.communicate()
    assert process.returncode == 75 and "resumes from there" in out
    assert err.strip().startswith("stopping: the run is saved first") and len(err) < 80
    assert not list(folder.glob("*-tmp"))

    process = command(config, parts)
    out, err = process.communicate()
    assert process.returncode == 0 and "done: 9 steps" in out and not err

    process = command(config, tmp_path / "whole")
    out, err = process.communicate()
    assert process.returncode == 0 and not err
    assert record(tmp_path / "whole") == record(parts)
    assert_same(final(config, tmp_path / "whole"), final(config, parts))


def final(config, folder):
    """The state of the newest checkpoint, on all devices."""
    mesh = make_mesh(fsdp=-1)
    plan = build_program(load_method(config), mesh, seed=0)
    return checkpoint.read(folder, plan.shapes, plan.layouts)


def test_two_processes_stop_together_and_one_process_resumes(tmp_path, command):
    # Two processes sum in another order; Adam scales the difference by the rate.
    config = small(steps=500, save_steps=0, mesh__fsdp=-1, optimizer__lr__peak=1e-3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    pair = [
        command(config, tmp_path / "run", *job, f"--process_id={i}") for i in (0, 1)
    ]
    read_until(pair[0], "step 3/")
    pair[1].send_signal(signal.SIGTERM)
    outs = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [75, 75]
    (saved,) = checkpoint.steps_in(tmp_path / "run" / "checkpoints")
    assert all(f"stopped at step {saved};" in out for out in outs)

    config.steps = saved + 1
    process = command(config, tmp_path / "run", "--allow_config_change")
    out, err = process.communicate()
    assert process.returncode == 0 and f"resuming after step {saved} " in out

    process = command(config, tmp_path / "whole")
    process.communicate()
    whole, parts = (final(config, tmp_path / name).params for name in ("whole", "run"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), whole, parts)
    steps = [line["step"] for line in record(tmp_path / "run")["metrics"]]
    assert steps == list(range(1, saved + 2))
