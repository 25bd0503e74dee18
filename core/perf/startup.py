"""Benchmarks start-up and checkpoint stalls."""

import tempfile
import time

import jax
import numpy as np

from core.method import open_source
from core.parallel.batches import host_shard, to_device
from core.program import plan_program
from core.runs import checkpoint

SAVES = 4  # the first is a warm-up
INTERVAL = 300.0  # seconds between saves, for the share of time that they block
STATE = 16e9  # bytes of a state of 1B parameters: weights, EMA, two Adam moments
LARGE = 1e9  # bytes from which the time of a save is proportional to the size


def measure_startup(config) -> dict:
    """Seconds of each stage from a config to the end of its first step, by name."""
    found, mark = {}, time.perf_counter()

    def end_stage(name):
        nonlocal mark
        found[f"startup_{name}_seconds"] = time.perf_counter() - mark
        mark = time.perf_counter()

    method, plan = plan_program(config)
    end_stage("plan")
    state = jax.block_until_ready(plan.create())
    end_stage("state")
    with open_source(method, host_shard(plan.mesh, method.batch)) as source:
        batch = to_device(plan.mesh, source.next(state), method.batch)
        end_stage("first_batch")
        with jax.set_mesh(plan.mesh):
            jax.block_until_ready(plan.step(state, batch))
    end_stage("first_step")
    return found


def measure_checkpoint(config) -> dict:
    """Seconds that a save blocks training and takes in the background; bytes per second.

    `checkpoint_block_share` is the share of training time at one save per 300 seconds;
    `..._of_1b` scales it by bytes to 1B parameters, None if this state is under 1 GB.
    """
    _, plan = plan_program(config)
    state = jax.block_until_ready(plan.create())
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    blocks, commits = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        checkpoint.Checkpoints(folder, keep=2) as checkpoints,
    ):
        for step in range(1, SAVES + 1):
            begin = time.perf_counter()
            checkpoints.save(step, state, {"next_index": step})
            blocks.append(time.perf_counter() - begin)
            checkpoints.wait()
            commits.append(time.perf_counter() - begin - blocks[-1])
    block, commit = (float(np.median(x[1:])) for x in (blocks, commits))
    scaled = block * STATE / size / INTERVAL
    return {
        "checkpoint_bytes": size,
        "checkpoint_block_seconds": block,
        "checkpoint_commit_seconds": commit,
        "checkpoint_bytes_per_second": size / commit,
        "checkpoint_block_share": block / INTERVAL,
        "checkpoint_block_share_of_1b": scaled if size >= LARGE else None,
    }
