"""Several processes train the same run as one, and any number of them resumes it."""

import functools
import json
import signal
import subprocess

import jax
import numpy as np
from small import share_programs, small, start, use_one_device

from core import train
from core.runs import checkpoint
from core.submit.local import free_port

# Rates that do not depend on how long a run is, and an optimizer that does not turn
# gradients that are rounding noise into full steps.
LEVEL = {"start": 1e-3, "peak": 1e-3, "final": 1e-3}
EPS = 1e-4


def metrics(folder, name):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


def job(count, config, folder, *flags):
    """Start the command in `count` processes on this machine."""
    command = ("launch.submit", "--target=local", f"--accelerator=cpu:{count}x1", "--")
    return start(config, folder, *flags, command=command, stderr=subprocess.STDOUT)


def finish(process, code=0) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == code, out
    return out


def test_any_number_of_processes_resumes_the_same_run(tmp_path, monkeypatch):
    """Two processes are preempted together, four resume what they saved, then one does."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = small(steps=500, save_steps=0, mesh__fsdp=-1, optimizer__eps=EPS)
    config.optimizer.lr.update(LEVEL)
    config.optimizer.momentum.update({"start": 0.99, "final": 0.99})
    process = job(2, config, parts)
    assert any("step 2/500 " in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    out = finish(process, code=75)
    (saved,) = checkpoint.steps_in(parts / "checkpoints")
    for index in (0, 1):
        assert f"[{index}] stopped at step {saved};" in out

    # With heads split over two hosts, both must load the same clips.
    config.mesh.update({"fsdp": 2, "tensor": 2})
    config.steps = saved + 2
    out = finish(job(4, config, parts, "--allow_config_change"))
    assert "[3] 4 processes (environment), this is 3, coord" in out
    assert f"resuming after step {saved} " in out

    use_one_device(monkeypatch)
    share_programs(monkeypatch)
    config.mesh.update({"fsdp": -1, "tensor": 1})
    config.steps = saved + 3
    end = train.fit(config, parts, allow_config_change=True)
    same = train.fit(config, whole)
    assert metrics(parts, "step") == list(range(1, saved + 4))
    losses = metrics(whole, "loss")
    assert len(losses) == saved + 3 and len(set(losses)) == saved + 3
    np.testing.assert_allclose(metrics(parts, "loss"), losses, rtol=1e-6)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, *jax.device_get((same.params, end.params)))


def test_a_coordinator_that_does_not_answer_is_one_sentence(tmp_path):
    port = free_port()
    flags = ["--num_processes=2", f"--coordinator=127.0.0.1:{port}", "--connect_s=1"]
    processes = [start(small(), tmp_path, *flags, "--process_id=1")]
    flags[1] = f"--coordinator=127.0.0.1:{free_port()}"
    processes += [start(small(), tmp_path, *flags, "--process_id=0")]
    words = [
        f"process 0 does not answer at 127.0.0.1:{port} (Connection refused)",
        "not all 2 of them came; see the logs of the others",
    ]
    for index, process, text in zip((1, 0), processes, words, strict=True):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1, err
        assert out.startswith(f"2 processes (flags), this is {index}, coordinator ")
        assert f"error: the processes of the job did not connect in 1 s: {text}" in err
