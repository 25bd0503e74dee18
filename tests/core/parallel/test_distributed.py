"""Several processes train the same run as one, and any number of them resumes it."""

import json
import socket

import numpy as np
from small import small, start

STEPS = {2: 2, 4: 4, 1: 5}  # processes -> steps done at their end
# Rates that do not depend on how long a run is.
LEVEL = {"start": 1e-3, "peak": 1e-3, "final": 1e-3}


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def job(count, config, folder, *flags):
    """Run the command in `count` processes on this machine and wait for them."""
    if count > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags += (f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}")
    own = [(f"--process_id={i}",) if count > 1 else () for i in range(count)]
    processes = [start(config, folder, *flags, *mine) for mine in own]
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err


def test_any_number_of_processes_resumes_the_same_run(tmp_path):
    config = small(steps=5, save_steps=0, mesh__fsdp=-1)
    config.optimizer.lr.update(LEVEL)
    config.optimizer.momentum.update({"start": 0.99, "final": 0.99})
    job(1, config, tmp_path / "whole")
    for count, steps in STEPS.items():
        config.steps = steps
        job(count, config, tmp_path / "parts", "--allow_config_change")
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) == 5 and len(set(whole)) == 5
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    # With heads split over two hosts, both must load the same clips.
    config.steps = 2
    config.mesh.update({"fsdp": 1, "tensor": 2})
    job(2, config, tmp_path / "tensor")
    np.testing.assert_allclose(losses(tmp_path / "tensor"), whole[:2], rtol=1e-6)
