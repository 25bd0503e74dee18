"""This machine: the processes of a job on CPU, to rehearse what clusters do."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

from core.base.processes import STOP_SIGNALS
from core.submit import shell
from core.submit.job import Job

PREEMPTED, PORT = 75, 8476
REFUSES = {
    "setup": "the processes run in this environment",
    "image": "the processes run in this environment",
    "bucket": "the workdir is a folder of this machine",
    "claim": "the workdir is a folder of this machine",
    "hours": "stop it with Ctrl-C",
    "spot": "send it SIGTERM to rehearse a preemption",
    "task_per_gpu": "rehearsals run on CPU",
    "cpus": "processes share the CPUs of this machine",
    "queue": "there is none",
    "namespace": "there is none",
    "zone": "there is none",
    "project": "there is none",
    "service_account": "the processes run as you",
    "options": "there is no scheduler",
    "secrets": "the processes have your environment",
}


def check(job: Job) -> None:
    """Raise ValueError for accelerators."""
    if job.hosts.platform != "cpu":
        raise ValueError(
            f"--target=local rehearses on CPU; write --accelerator=cpu:{job.hosts.nodes}x"
            f"{job.hosts.chips} for {job.hosts.nodes} processes of {job.hosts.chips} "
            "virtual devices"
        )


def variables(job: Job, index: int, port: int) -> dict[str, str]:
    """What the environment of process `index` has beside that of this process."""
    return {
        **dict(job.env),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(job.hosts.chips),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(job.hosts.nodes),
        "JAX_PROCESS_ID": str(index),
    }


def render(job: Job) -> str:
    """The same processes as a script, without what `run` does around them."""
    lines = ["#!/bin/bash"]
    for index in range(job.hosts.nodes):
        pairs = variables(job, index, PORT).items()
        env = " ".join(f"{name}={shlex.quote(value)}" for name, value in pairs)
        lines.append(f"{env} \\\n  {shell.folded(job.command)} &")
    return "\n".join([*lines, "wait", ""])


def commands(job: Job, ident: str = "") -> dict[str, str]:
    return {
        "follow": "its output is here",
        "stop": "Ctrl-C, or SIGTERM to launch.submit",
    }


def run(job: Job) -> int:
    """Run the job, again after exit code 75 up to `job.restarts` times.

    Signals that ask for a stop are forwarded to all processes, and end the restarts.
    Returns the exit code: that of the first process that failed, 75 if any was preempted,
    else 0. When a process fails, the others get `job.grace` seconds to end by themselves.
    """
    processes: list[subprocess.Popen] = []
    asked = []

    def forward(number, frame):
        asked.append(number)
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        for left in range(max(job.restarts, 0), -1, -1):
            port = free_port()
            processes[:] = [start(job, i, port) for i in range(job.hosts.nodes)]
            with copying(processes):
                code = wait(processes, job.grace)
            if code != PREEMPTED or asked or not left:
                break
            print(f"starting the saved run again; {left - 1} restarts left", flush=True)
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
    return code


def start(job: Job, index: int, port: int) -> subprocess.Popen:
    """Process `index`, in a session of its own: a terminal's Ctrl-C reaches it once."""
    return subprocess.Popen(
        [sys.executable, *job.command[1:]],
        env=os.environ | variables(job, index, port),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextlib.contextmanager
def copying(processes):
    """Print the lines of processes behind their numbers, until they have ended."""
    threads = [
        threading.Thread(target=copy_lines, args=(process.stdout, index), daemon=True)
        for index, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(timeout=5)  # a child of the process may keep its output open


def copy_lines(stream, index: int) -> None:
    with stream:
        for line in stream:
            with contextlib.suppress(OSError):  # a terminal that is gone
                sys.stdout.buffer.write(b"[%d] %b\n" % (index, line.rstrip(b"\n")))
                sys.stdout.buffer.flush()


def wait(processes: list[subprocess.Popen], grace: float) -> int:
    """The exit code of a job, when all processes have ended or were killed."""
    failed: list[int] = []  # codes in the order of time
    deadline = float("inf")
    running = list(processes)
    while running:
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            if process.returncode not in (0, PREEMPTED):
                failed.append(process.returncode)
                deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() > deadline and running:
            print(
                f"a process failed {grace:g} s ago; the others are killed", flush=True
            )
            for process in running:
                process.kill()
            deadline = float("inf")
        time.sleep(0.05)
    if failed:
        return failed[0] if failed[0] > 0 else 128 - failed[0]  # signals, as in shells
    return PREEMPTED if any(p.returncode == PREEMPTED for p in processes) else 0


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
