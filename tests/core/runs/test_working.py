"""What the terminal shows before the first step."""

import os
import time

from core.runs import working

DATED = "2026-01-02 03:04:05.678901: E external/xla/slow_operation_alarm.cc:73] "
SHORT = "E0102 03:04:05.678901   123 slow_operation_alarm.cc:140] "
OTHER = "W0102 03:04:05.678901   123 cpu_client.cc:9] something else\n"
ALARM = "Constant folding takes > 1s\n\n  %pad\n\nIf you'd like to file a bug, ...\n"


def test_alarms_of_slow_compilation_are_left_out():
    text = (
        "first\n" + DATED + ALARM + OTHER + SHORT + "The operation took 3 s\n" + OTHER
    )
    assert working.without_alarms(text) == "first\n" + OTHER + OTHER
    assert working.without_alarms("") == ""


def test_what_the_compiler_writes_stays_in_a_file(tmp_path, capfd):
    with working.log_compiler(tmp_path):
        os.write(2, (DATED + ALARM + OTHER).encode())
    assert capfd.readouterr().err == OTHER
    assert (tmp_path / "compiler.log").read_text() == DATED + ALARM + OTHER
    with working.log_compiler(tmp_path):
        os.write(2, b"more\n")
    assert capfd.readouterr().err == "more\n"
    (tmp_path / "quiet").mkdir()
    with working.log_compiler(tmp_path / "quiet"):
        pass
    assert not list((tmp_path / "quiet").iterdir())


def test_work_is_announced_and_timed(monkeypatch, capsys):
    monkeypatch.setattr(working, "TICK_S", 0.05)
    with working.working("compiling", usual_s=41.0):
        time.sleep(0.2)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "compiling (took 0:41 before)"
    assert second == "compiling: 0:00 (took 0:41 before)"
    with working.working("opening", at_once=False):
        pass
    assert not capsys.readouterr().out


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("sys.stdout", Gone())
    working.say("nobody reads this")
