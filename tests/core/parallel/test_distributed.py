"""Several processes train the same run as one, and any number of them resumes it."""

import json
import signal
import subprocess

import numpy as np
from small import small, start

from core.submit.local import free_port

RESUMED = {4: 2, 1: 3}  # processes -> steps at their end, after those of the first job
# Rates that do not depend on how long a run is.
LEVEL = {"start": 1e-3, "peak": 1e-3, "final": 1e-3}


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def job(count, config, folder, *flags):
    """Start the command in `count` processes on this machine."""
    local = ("launch.submit", "--target=local", f"--accelerator=cpu:{count}x1", "--")
    command = local if count > 1 else ("launch.train",)
    return start(config, folder, *flags, command=command, stderr=subprocess.STDOUT)


def finish(process, code=0) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == code, out
    return out


def test_any_number_of_processes_resumes_the_same_run(tmp_path):
    config = small(steps=500, save_steps=0, mesh__fsdp=-1)
    config.optimizer.lr.update(LEVEL)
    config.optimizer.momentum.update({"start": 0.99, "final": 0.99})
    # Two processes are preempted together, four resume what they saved, then one does.
    process = job(2, config, tmp_path / "parts")
    assert any("step 2/500 " in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    out = finish(process, code=75)
    (saved,) = (int(x.name) for x in (tmp_path / "parts" / "checkpoints").iterdir())
    for index in (0, 1):
        assert f"[{index}] stopped at step {saved};" in out
    for count, more in RESUMED.items():
        config.steps = saved + more
        out = finish(job(count, config, tmp_path / "parts", "--allow_config_change"))
        assert count == 1 or "[3] 4 processes (environment), this is 3, coord" in out
    finish(job(1, config, tmp_path / "whole"))
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) == saved + 3 and len(set(whole)) == saved + 3
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    # With heads split over two hosts, both must load the same clips.
    config.steps = 2
    config.mesh.update({"fsdp": 1, "tensor": 2})
    finish(job(2, config, tmp_path / "tensor"))
    np.testing.assert_allclose(losses(tmp_path / "tensor"), whole[:2], rtol=1e-6)


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
