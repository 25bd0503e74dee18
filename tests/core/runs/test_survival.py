"""What a run survives: bad batches, failed writes, damaged checkpoints, a step that hangs."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from small import ROOT, use_one_device
from toy.summing import config

from core.base import locks
from core.runs import checkpoint, goodput, run_folder
from core.runs.checkpoint import CheckpointError
from core.runs.reporter import Diverged
from core.train import fit


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    use_one_device(monkeypatch)


def guard(**fields):
    return {"hang_s": 0.0, "rollback": 0, "norm": 0.0} | fields


def total(state) -> float:
    return float(state.params["total"])


def notes(folder):
    return [
        json.loads(x) for x in (folder / "rollbacks.jsonl").read_text().splitlines()
    ]


def test_a_rollback_skips_the_data_since_the_checkpoint(tmp_path):
    bad = (7, 8, 9)
    with pytest.raises(Diverged, match="not finite in the last 3 steps up to 10"):
        fit(config(bad=bad), tmp_path / "none")
    settings = config(bad=bad, guard=guard(rollback=1), keep_checkpoints=20)
    state = fit(settings, tmp_path / "run")
    # The checkpoint of step 6 has positions 0 to 5; 14 more steps begin at position 10.
    assert total(state) == sum(range(6)) + sum(range(10, 24))
    assert notes(tmp_path / "run") == [
        {"diverged": 10, "step": 6, "cursor": {"next_index": 10}}
    ]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 21))
    # Killed after the note and before the next save: the restart reads the note.
    for step in range(8, 21, 2):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    assert total(fit(settings, tmp_path / "run")) == total(state)


def test_rollbacks_are_bounded(tmp_path):
    settings = config(bad=tuple(range(3, 30)), guard=guard(rollback=2))
    with pytest.raises(Diverged):
        fit(settings, tmp_path)
    # Step 3 is saved with position 3 not yet read, so every time it goes back to step 2 or 3.
    assert [note["cursor"]["next_index"] for note in notes(tmp_path)] == [6, 10]


def test_updates_above_the_bound_are_not_applied(tmp_path):
    state = fit(config(guard=guard(norm=5.5), max_bad_steps=99), tmp_path)
    assert total(state) == sum(range(6)) and int(state.bad_steps) == 14
    with pytest.raises(ValueError, match="guard.norm is -1"):
        fit(config(guard=guard(norm=-1.0)), tmp_path)
    with pytest.raises(
        ValueError, match="expected a section with hang_s, rollback, norm"
    ):
        fit(config(guard={}), tmp_path)


def flip(folder):
    path = max(folder.rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, capfd):
    fit(config(steps=10), tmp_path)
    flip(tmp_path / "checkpoints" / "10")
    flip(tmp_path / "checkpoints" / "8")
    state = fit(config(), tmp_path, allow_config_change=True)
    assert total(state) == sum(range(20))
    out = capfd.readouterr().out
    assert (
        "checkpoints/10 is damaged (state/" in out
        and "all arrays: resumed from step 6" in out
    )
    assert sorted(p.name for p in (tmp_path / "set_aside").iterdir()) == ["10", "8"]
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [16, 18, 20]


def test_a_checkpoint_is_chosen_by_hand(tmp_path):
    fit(config(), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"restore_step is 17.* holds \[16, 18, 20\]"
    ):
        fit(config(), tmp_path, restore_step=17)
    state = fit(config(), tmp_path, restore_step=16)
    assert total(state) == sum(range(20))
    assert sorted(p.name for p in (tmp_path / "set_aside").iterdir()) == ["18", "20"]
    with pytest.raises(ValueError, match="restore_step is 3, but this run has no"):
        fit(config(), tmp_path / "new", restore_step=3)


@pytest.mark.parametrize("step", [4, 20])
def test_a_failed_write_is_tried_again(tmp_path, monkeypatch, step):
    """The folder is full for a while; step 20 is the last, which is waited for."""
    monkeypatch.setattr(checkpoint, "PAUSES", (0.0, 0.0))
    failures = []

    def seal(self, real=checkpoint.Checkpoints._seal):
        if self._writing >= step and len(failures) < 2:
            failures.append(self._writing)
            raise OSError(28, "No space left on device")
        real(self)

    monkeypatch.setattr(checkpoint.Checkpoints, "_seal", seal)
    state = fit(config(), tmp_path)
    assert len(failures) == 2 and total(state) == sum(range(20))
    assert checkpoint.steps_in(tmp_path / "checkpoints")[-1] == 20
    monkeypatch.setattr(checkpoint.Checkpoints, "_seal", lambda self: 1 / 0)
    with pytest.raises(CheckpointError, match="step 20 is intact; fix that"):
        fit(config(steps=30), tmp_path, allow_config_change=True)
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [16, 18, 20]


def test_a_step_that_hangs_ends_the_process_with_its_stacks(tmp_path):
    code = (
        "import sys, time\nfrom core.runs.watchdog import Watchdog\n"
        "def hanging(): time.sleep(60)\n"
        "with Watchdog(sys.argv[1], 0.3) as watchdog:\n"
        "    with watchdog.paused(): time.sleep(1)\n"
        "    print('alive', flush=True)\n"
        "    hanging()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60},
    )
    assert (done.returncode, done.stdout) == (76, "alive\n")
    assert done.stderr.count("\n") == 1 and "no step was done for" in done.stderr
    assert "in hanging" in (tmp_path / "stacks.txt").read_text()


def test_time_is_accounted_over_restarts():
    one = {"first": 0, "step": 100, "began": 1000.0, "until": 1200.0}
    one["seconds"] = {"start": 10.0, "train": 100.0, "compile": 20.0}
    two = {"first": 80, "step": 90, "began": 1300.0, "until": 1400.0}
    two["seconds"] = {"start": 10.0, "train": 50.0, "evaluate": 40.0}
    total = goodput.add_up([one, two])
    assert total == {
        **{"train": 130.0, "start": 20.0, "compile": 20.0, "data": 0.0},
        **{"checkpoint": 0.0, "evaluate": 40.0, "lost": 20.0, "down": 100.0},
    }
    assert goodput.share(total) == pytest.approx(130 / 330)
    assert goodput.lost_steps([one, two]) == 20
    assert goodput.describe([one, two])[1] == "1 restarts, 20 steps done again"


def test_a_run_writes_where_its_time_went(tmp_path):
    fit(config(steps=4), tmp_path)
    fit(config(), tmp_path, allow_config_change=True)
    sessions = goodput.read_sessions(tmp_path)
    assert [(s["first"], s["step"]) for s in sessions] == [(0, 4), (4, 20)]
    for session in sessions:
        wall = session["until"] - session["began"]
        assert sum(session["seconds"].values()) == pytest.approx(wall, rel=0.05)


def test_a_folder_without_locks_is_held_by_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "try_lock", lambda *_: None)
    monkeypatch.setattr(locks, "BEAT_S", 0.05)
    with run_folder.hold_lock(tmp_path):
        begun = (tmp_path / ".lock").stat().st_mtime
        with pytest.raises(
            ValueError, match="process .* is training in .* gave a sign 0 s"
        ):
            with run_folder.hold_lock(tmp_path):
                pass
        time.sleep(0.3)
        assert (tmp_path / ".lock").stat().st_mtime > begun
    with run_folder.hold_lock(tmp_path):  # it was given back
        pass
    (tmp_path / ".lock").write_text("process 7 on a host that crashed")
    os.utime(tmp_path / ".lock", (0, time.time() - 61))
    with run_folder.hold_lock(tmp_path):
        pass
