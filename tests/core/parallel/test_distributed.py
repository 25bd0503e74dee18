"""Several processes train the same run as one, and any number of them resumes it."""

import functools
import json
import signal

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


@pytest.fixture
def job():
    """Starts the command in `count` processes; kills what a failed test leaves."""
    with contextlib.ExitStack() as stack:

        def started(count, config, folder, *flags):
            flags += (
                f"--coordinator=127.0.0.1:{free_port()}",
                f"--num_processes={count}",
            )
            own = [f"--process_id={i}" for i in range(count)]
            found = [start(config, folder, *flags, one) for one in own]
            for process in found:
                stack.enter_context(process)
                stack.callback(process.kill)
            return found

        yield started


def ends(processes):
    """(exit codes, outputs) of processes, once all have ended."""
    outs = ["".join(process.communicate(timeout=240)) for process in processes]
    return [process.returncode for process in processes], outs


def metrics(folder, name):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


def test_any_number_of_processes_resumes_the_same_run(tmp_path, job, monkeypatch):
    """Two processes stop together, four split heads as well, and one ends the run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = small(steps=500, save_steps=0, mesh__fsdp=-1, optimizer__eps=EPS)
    config.optimizer.lr.update(LEVEL)
    config.optimizer.momentum.update({"start": 0.99, "final": 0.99})
    pair = job(2, config, parts)
    next(line for line in pair[0].stdout if "step 2/" in line)
    pair[1].send_signal(signal.SIGTERM)
    codes, outs = ends(pair)
    assert codes == [75, 75], outs
    (saved,) = checkpoint.steps_in(parts / "checkpoints")
    assert all(f"stopped at step {saved};" in out for out in outs)

    # With heads split over two hosts, both must load the same clips.
    config.mesh.update({"fsdp": 2, "tensor": 2})
    config.steps = saved + 2
    codes, outs = ends(job(4, config, parts, "--allow_config_change"))
    assert codes == [0] * 4, outs
    assert f"resuming after step {saved} " in outs[0]

    use_one_device(monkeypatch)
    share_programs(monkeypatch)
    config.mesh.update({"fsdp": -1, "tensor": 1})
    config.steps = saved + 3
    end = train.fit(config, parts, allow_config_change=True)
    same = train.fit(config, whole)
    assert metrics(parts, "step") == list(range(1, saved + 4))
    losses = metrics(whole, "loss")
    assert len(set(losses)) == len(losses)
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
