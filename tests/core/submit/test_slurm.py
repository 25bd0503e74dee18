"""A rendered script on a Slurm cluster of one host, which this test starts and ends."""

import os
import shutil
import socket
import subprocess
import time

import pytest

from core.submit import slurm
from core.submit.hosts import read
from core.submit.job import Job
from core.submit.local import free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)) or os.getuid() != 0,
    reason="needs root and Debian's slurm-wlm",
)
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/ctld.pid
SlurmdPidFile={at}/d.pid
SlurmctldLogFile={at}/ctld.log
SlurmdLogFile={at}/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 Port={d} CPUs=2
PartitionName=all Nodes={host} Default=YES State=UP
"""
# Ignores what a training ignores; tells what it sees; is saved the first two times.
TRAIN = """
import os, pathlib, signal, sys, time
from core.parallel import discovery
here, again = pathlib.Path(sys.argv[1]), os.environ.get("SLURM_RESTART_COUNT")
found = discovery.find(os.environ)
print(again, os.environ["A"], *found[:3] if found else "alone", flush=True)
if again == "1": sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
(here / "ready").touch()
time.sleep(60)
"""


class Python(Job):
    """A job that runs the code in its first flag."""

    @property
    def command(self):
        return ["python", "-c", *self.flags]


def until(done, seconds=20.0):
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A function that runs a command of the cluster and returns its output."""
    host = socket.gethostname().split(".")[0]
    ports = {"ctld": free_port(), "d": free_port()}
    for folder in ("state", "spool"):
        (tmp_path / folder).mkdir()
    config = tmp_path / "slurm.conf"
    config.write_text(CONFIG.format(host=host, at=tmp_path, **ports))
    monkeypatch.setenv("SLURM_CONF", str(config))
    daemons = [
        subprocess.Popen(["slurmctld", "-D"]),
        subprocess.Popen(["slurmd", "-D"]),
    ]

    def run(*words, **options):
        done = subprocess.run(words, capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        until(lambda: "idle" in subprocess.getoutput("sinfo --noheader --format=%T"))
        yield run
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=20)


def test_a_saved_job_is_requeued(cluster, tmp_path, pytestconfig):
    """sbatch, SIGTERM to the tasks, exit code 75, requeue, and the second start."""
    job = Python(
        "again",
        read("cpu:1x1"),
        (TRAIN, str(tmp_path)),
        env=(("A", "x y"), ("PYTHONPATH", str(pytestconfig.rootpath))),
        hours=0.1,
        grace_s=60,
    )
    slurm.check(job)
    ident = cluster("sbatch", "--parsable", cwd=tmp_path, input=slurm.render(job))
    log = tmp_path / f"again-{ident}.log"
    until((tmp_path / "ready").exists)
    shown = cluster("scontrol", "show", "job", ident)
    assert "TimeLimit=00:06:00" in shown and "Requeue=1" in shown
    cluster("scancel", "--signal=TERM", ident)
    until(lambda: "Restarts=1" in cluster("scontrol", "show", "job", ident))
    # Slurm would wait for two minutes.
    until(
        lambda: (
            cluster("squeue", "--noheader", "--format=%T", f"--job={ident}")
            == "PENDING"
        )
    )
    cluster("scontrol", "update", f"JobId={ident}", "StartTime=now")
    until(lambda: "JobState=COMPLETED" in cluster("scontrol", "show", "job", ident))
    lines = log.read_text().splitlines()
    assert lines[0] == f"None x y Slurm job {ident} 1 0"
    assert lines[-1] == f"1 x y Slurm job {ident} 1 0"
