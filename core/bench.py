"""Times the train step of a config with its real data: what `launch.bench` prints."""

import contextlib
import json
import time

import jax
import numpy as np

from core import metrics, settings, sharding
from core.method import load
from core.train import build


def measure(config, *, steps: int) -> dict:
    """Run `steps` steps after the first and account for their time.

    Every step is waited for, so that its time is its own; data is read ahead by the
    source meanwhile, as in training. Times in seconds, memory in bytes.
    """
    settings.check(config.to_dict())
    method, mesh = load(config), sharding.make_mesh(**config.mesh)
    plan = build(method, mesh, seed=config.seed)
    shard = sharding.host_shard(mesh, method.batch)
    with contextlib.closing(method.source("train", shard)) as source:
        state, waits, times = plan.create(), [], []
        with jax.set_mesh(mesh):
            for _ in range(steps + 1):
                begin = time.perf_counter()
                batch = source.next(state)
                ready = time.perf_counter()
                batch = sharding.to_device(mesh, batch, method.batch)
                state, scalars = plan.step(state, batch)
                jax.block_until_ready((state, scalars))
                waits.append(ready - begin)
                times.append(time.perf_counter() - ready)
    return account(method, plan, np.array(waits), np.array(times))


def account(method, plan, waits, times) -> dict:
    """What the times of the steps, the first apart, say."""
    first, times, waits = times[0], times[1:], waits[1:]
    median, kind = float(np.median(times)), jax.devices()[0].device_kind
    whole = float(times.sum() + waits.sum())
    return {
        "device": f"{jax.device_count()} x {kind}",
        "steps": len(times),
        "step_seconds_median": median,
        "step_seconds_min": float(times.min()),
        "step_seconds_spread": float(np.quantile(times, 0.9) - np.quantile(times, 0.1)),
        f"{method.unit}_per_second": method.batch * len(times) / whole,
        "data_wait_share": float(waits.sum()) / whole,
        "flops_per_step": method.flops,
        "flops_per_second": method.flops / median,
        "mfu": metrics.mfu(method.flops, median, jax.device_count(), kind),
        "compile_seconds": float(first - median),
        "programs_compiled": plan.step._cache_size(),
        "host_peak_bytes": metrics.peak_host_bytes(),
        **metrics.device_memory(),
    }


def as_json(found: dict) -> str:
    return json.dumps(found)


def as_lines(found: dict) -> str:
    """A name and a value per line, for people."""
    width = max(len(name) for name in found)
    shown = {k: v for k, v in found.items() if v is not None}
    return "\n".join(
        f"{name:{width}}  {value if isinstance(value, str) else metrics.short(value)}"
        for name, value in shown.items()
    )
