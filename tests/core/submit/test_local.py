"""Processes of a rehearsal: their numbers, signals, exit codes and restarts."""

import pytest

from core.submit import local
from core.submit.hosts import read
from core.submit.job import Job

BEGIN = "import os, pathlib, signal, sys, time; i = int(os.environ['JAX_PROCESS_ID']); "
# Both wait for SIGTERM and exit with 75; process 1 sends it to the launcher.
STOP = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path(f"{os.environ['AT']}/{i}.{os.getpid()}").touch()
while i and len(os.listdir(os.environ['AT'])) < 2: time.sleep(0.01)
if i: os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""
AGAIN = """
mark = pathlib.Path(f"{os.environ['AT']}/{i}")
if mark.exists(): sys.exit(0)
mark.touch()
sys.exit(75)
"""


class Python(Job):
    """A job whose processes run the code in its first flag."""

    @property
    def command(self):
        return ["python", "-c", BEGIN + self.flags[0]]


def run(code: str, tmp_path, **fields) -> int:
    env = (("AT", str(tmp_path)),)
    return local.run(Python("a", read("cpu:2x3"), (code,), env=env, **fields))


def test_processes_are_numbered_and_their_lines_too(tmp_path, capfdbinary):
    names = ("JAX_NUM_PROCESSES", "JAX_NUM_CPU_DEVICES", "JAX_COORDINATOR_ADDRESS")
    values = ", ".join(f"os.environ['{name}']" for name in names)
    assert run(f"print({values}); print('é', file=sys.stderr)", tmp_path) == 0
    lines = sorted(capfdbinary.readouterr().out.decode().splitlines())
    assert lines[1::2] == ["[0] é", "[1] é"]
    (_, count, devices, address), other = (line.split() for line in lines[::2])
    assert (count, devices) == ("2", "3") and other == ["[1]", count, devices, address]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("sys.exit(75 * i)", 75),
        ("sys.exit(75 if i else 3)", 3),
        ("time.sleep(i / 2); sys.exit(7 + i)", 7),  # the first that fails
        ("i or os.kill(os.getpid(), 9)", 137),
    ],
)
def test_exit_codes(code, expected, tmp_path):
    assert run(code, tmp_path) == expected


def test_processes_that_outlive_a_failed_one_are_killed(tmp_path, capfd):
    assert run("i and time.sleep(60); sys.exit(1)", tmp_path, grace_s=1) == 1
    assert "a process failed 1 s ago; the others are killed" in capfd.readouterr().out


@pytest.mark.parametrize(("restarts", "expected"), [(-1, 75), (0, 75), (1, 0), (5, 0)])
def test_saved_jobs_start_again(restarts, expected, tmp_path):
    assert run(AGAIN, tmp_path, restarts=restarts) == expected


def test_a_signal_reaches_all_processes_and_ends_the_restarts(tmp_path):
    assert run(STOP, tmp_path, restarts=3) == 75
    assert len(list(tmp_path.iterdir())) == 2  # started once each
