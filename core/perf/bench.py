"""Benchmarks of a config's train step, its data and its peer program (`launch.bench`)."""

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import psutil

from core.base.names import choose
from core.base.processes import usable_cpus
from core.base.text import short
from core.config import check_config, load_method
from core.hardware import mfu
from core.method import open_source
from core.parallel.batches import host_shard, to_device
from core.parallel.mesh import make_mesh
from core.perf import frozen, startup
from core.program import build_program
from core.runs.throughput import device_memory, peak_host_bytes

FILL = 8  # batches taken first, untimed, that fill the buffers
TICK = 0.01  # seconds: the resolution of CPU times of other processes
PAUSE = 0.05  # seconds before a turn, in which the other program's threads fall asleep
TURN = 10  # timed steps of a program before the other's turn


def measure(config, what=("step",), *, steps: int) -> dict:
    """Run the benchmarks `what`, all if empty; returns their numbers by name.

    what: "step", "data", "checkpoint", "startup", "extract", "probe", or benchmarks of the
    method. Raises ValueError on unknown names. Times are in seconds, sizes in bytes.
    """
    check_config(config.to_dict())
    method = load_method(config)
    table = {
        "step": functools.partial(measure_step, config, method, steps=steps),
        "data": functools.partial(measure_data, config, method, steps=steps),
        "checkpoint": functools.partial(startup.measure_checkpoint, config),
        "startup": functools.partial(startup.measure_startup, config),
        "extract": functools.partial(frozen.measure_extract, config, method),
        "probe": functools.partial(frozen.measure_probe, config, method, steps=steps),
    }
    chosen = choose(what, table | method.tools.benches, "benchmark")
    found = {k: v for part in chosen.values() for k, v in part().items()}
    if {"step", "data"} <= chosen.keys():
        busy = found["data_core_seconds_per_step"] / found["step_seconds_median"]
        found["data_cores_needed"] = busy
    return found


def measure_step(config, method, *, steps: int) -> dict:
    """Time `steps` steps after the first, which compiles; returns `summarize_times`.

    Every step is waited for, so that steps do not overlap; meanwhile the source reads
    ahead, as in training.
    """
    mesh = make_mesh(**config.mesh)
    plan = build_program(method, mesh, seed=config.seed, offload=config.offload)
    with open_source(method, host_shard(mesh, method.batch)) as source:
        state, waits, times, busy = plan.create(), [], [], []
        with jax.set_mesh(mesh):
            for _ in range(steps + 1):
                begin = time.perf_counter()
                batch = source.next(state)
                ready = time.perf_counter()
                used = time.process_time()
                batch = to_device(mesh, batch, method.batch)
                state, scalars = plan.step(state, batch)
                jax.block_until_ready((state, scalars))
                busy.append(time.process_time() - used)
                waits.append(ready - begin)
                times.append(time.perf_counter() - ready)
    found = summarize_times(method, plan, np.array(waits), np.array(times))
    return found | {"step_cpu_seconds_median": float(np.median(busy[1:]))}


def measure_data(config, method, *, steps: int) -> dict:
    """Time the source alone; returns rates, CPU seconds and memory by name.

    Takes FILL batches untimed, then `steps` batches as fast as they come, and sums the CPU
    time of all processes. Takes `steps` more, each after a pause as long as a batch took,
    to measure the data wait of a device with steps of that length. Memory is measured
    before, between and after. If the method has a benchmark "decode", the source's speed is
    also given as a share of decoding alone. Raises ValueError if the method acts.
    """
    if method.acts:
        raise ValueError(
            "data: an agent's batches come from its acting; time env or replay"
        )
    mesh = make_mesh(**config.mesh)
    shard = host_shard(mesh, method.batch)
    # Measured before and after, because a machine's speed may change.
    decoding = (
        [method.tools.benches["decode"]()] if "decode" in method.tools.benches else []
    )
    with open_source(method, shard) as source:
        for _ in range(FILL):
            source.next()
        memory = [resident_bytes()]
        begin, before = time.perf_counter(), cpu_seconds()
        for _ in range(steps):
            batch = source.next()
        wall, busy = time.perf_counter() - begin, cpu_seconds() - before
        busy = max(busy, TICK)  # a few small batches take less than can be told
        memory.append(resident_bytes())
        waited, begin = 0.0, time.perf_counter()
        for _ in range(steps):
            time.sleep(wall / steps)
            now = time.perf_counter()
            source.next()
            waited += time.perf_counter() - now
        total = time.perf_counter() - begin
        memory.append(resident_bytes())
    rows, size = method.batch // shard[1], sum(x.nbytes for x in batch.values())
    unit = method.unit
    found = {
        f"data_{unit}_per_second": rows * steps / wall,
        f"data_{unit}_per_core_second": rows * steps / busy,
        f"data_{unit}_taken": rows * (FILL + 2 * steps),
        "data_core_seconds_per_step": busy / steps,
        "data_wait_share_at_capacity": waited / total,
        "data_bytes_per_step": size,
        "data_bytes_per_second": size * steps / wall,
        **{f"data_resident_bytes_{i}": x for i, x in enumerate(memory)},
    }
    if decoding:
        decoding.append(method.tools.benches["decode"]())
        seconds = np.mean([x["decode_seconds_per_clip"] for x in decoding])
        found["decode_seconds_per_clip"] = float(seconds)
        found["data_share_of_decode_speed"] = float(seconds) * rows * steps / busy
    return found


def processes():
    """This process and its living descendants."""
    this = psutil.Process()
    return (this, *this.children(recursive=True))


def resident_bytes() -> int:
    """Memory of `processes`; shared pages are counted once (PSS)."""
    total = 0
    for process in processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def cpu_seconds() -> float:
    """CPU time of `processes`, user and system."""
    total = 0.0
    for process in processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def summarize_times(method, plan, waits, times) -> dict:
    """Step time, throughput, MFU, compile time and memory by name.

    waits, times: seconds of each step spent waiting for data and computing, [steps + 1];
    the first step compiles.
    """
    first, times, waits = times[0], times[1:], waits[1:]
    median, kind = float(np.median(times)), jax.devices()[0].device_kind
    total = float(times.sum() + waits.sum())
    return {
        "device": f"{jax.device_count()} x {kind}",
        "steps": len(times),
        "step_seconds_median": median,
        "step_seconds_min": float(times.min()),
        "step_seconds_spread": float(np.quantile(times, 0.9) - np.quantile(times, 0.1)),
        f"{method.unit}_per_second": method.batch * len(times) / total,
        "data_wait_share": float(waits.sum()) / total,
        "flops_per_step": method.costs.flops,
        "flops_per_second": method.costs.flops / median,
        "mfu": mfu(method.costs.flops, median, jax.device_count(), kind),
        "compile_seconds": float(first - median),
        "programs_compiled": plan.step._cache_size(),
        "host_peak_bytes": peak_host_bytes(),
        **device_memory(),
    }


def compare(
    config, kind: str, *, what: str = "step", steps: int, python: str = sys.executable
) -> dict:
    """Time our steps and those of the method's peer program, in turns of TURN, on one batch.

    The peer `kind` is run by the module `perf.peer` of the method's package, with the same
    weights and batch. Ratios are the peer's time over ours: above 1, ours is faster. Raises
    ValueError if the first losses differ by 1e-4 or more.

    what: "step"; or "plan", which the module `perf.plan_peer` compares. python: the program
    that runs the peer.
    """
    package = config.method.rpartition(".")[0] + ".perf"
    known = {"step": "peer", "plan": "plan_peer"}
    name = f"{package}.{choose([what], known, 'benchmark with a peer')[what]}"
    try:
        peer = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, package):
            raise
        raise ValueError(f"method {config.method} has no peer for {what}") from None
    if what == "plan":
        return peer.compare(config, kind, steps=steps, python=python)
    config = peer.comparable(config, kind, python)
    method = load_method(config)
    mesh = make_mesh(devices=jax.local_devices()[:1])
    plan = build_program(method, mesh, seed=config.seed)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(method.source("train", (0, 1), folder)) as source:
            batch = source.next()
        state = plan.create()
        batch = peer.prepare(config, kind, state, batch, folder)
        programs = peer.PROGRAMS, peer.module_of(config, kind)
        with (
            jax.set_mesh(mesh),
            start_peer(*programs, folder, python) as (versions, peer_step),
        ):
            batch = to_device(mesh, batch, method.batch)

            def our_step():
                nonlocal state
                begin, used = time.perf_counter(), time.process_time()
                state, scalars = plan.step(state, batch)
                loss = float(jax.block_until_ready((state, scalars))[1]["loss"])
                found = {"seconds": time.perf_counter() - begin, "loss": loss}
                return found | {"cpu_seconds": time.process_time() - used}

            both = our_step, peer_step
            rows = [tuple(step() for step in both)]  # compile
            while len(rows) <= steps:
                count = min(TURN, steps + 1 - len(rows))
                rows += zip(*(turn(step, count) for step in both), strict=True)
    losses = [program["loss"] for program in rows[0]]
    gap = abs(losses[0] - losses[1])
    if not gap < 1e-4:
        raise ValueError(
            f"the first loss of the peer is {losses[1]}, ours is {losses[0]}; "
            "expected a difference under 1e-4"
        )

    def times(name):
        """Of ours, then of the peer, [steps] each; the first step compiles."""
        return np.array([[program[name] for program in row] for row in rows[1:]]).T

    here, there = times("seconds")
    busy, peer_busy = times("cpu_seconds")
    return {
        "versions": f"jax {jax.__version__}",
        "peer_versions": versions,
        "steps": steps,
        "step_seconds_median": float(np.median(here)),
        "peer_step_seconds_median": float(np.median(there)),
        "ratio_of_medians": float(np.median(there) / np.median(here)),
        "ratio_of_minima": float(there.min() / here.min()),
        "step_cpu_seconds_min": float(busy.min()),
        "peer_step_cpu_seconds_min": float(peer_busy.min()),
        "first_loss_difference": gap,
        "host_peak_bytes": peak_host_bytes(),
        "peer_host_peak_bytes": rows[-1][1]["peak_kib"] * 1024,
    }


def turn(step, count: int) -> list:
    """What `count` steps in a row return, as in training; one before them brings the data of
    this program back into the caches.
    """
    time.sleep(PAUSE)
    step()
    return [step() for _ in range(count)]


@contextlib.contextmanager
def start_peer(name: str, kind: str, folder: str, python: str):
    """Start the peer program; yields its versions, and a function that runs one step."""
    command = [python, "-m", name, kind, folder, str(usable_cpus())]
    settings = {**os.environ, "JAX_PLATFORMS": "cpu"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=settings, **pipes) as process:

        def answer():
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{name} exited with code {process.wait()}")
            return json.loads(line)

        def step():
            process.stdin.write("step\n")
            process.stdin.flush()
            return answer()

        try:
            yield answer()["versions"], step
        finally:
            process.stdin.close()


def as_json(found: dict) -> str:
    """The numbers as one JSON object."""
    return json.dumps(found)


def as_lines(found: dict) -> str:
    """One line of text per number: its name and value."""
    width = max(len(name) for name in found)
    shown = {k: v for k, v in found.items() if v is not None}
    return "\n".join(
        f"{name:{width}}  {value if isinstance(value, str) else short(value)}"
        for name, value in shown.items()
    )
