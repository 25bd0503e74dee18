"""The same step with other settings, one after the other, in one call and a given time."""

import itertools
import json
import time

import jax
import numpy as np

from core import metrics, settings, sharding
from core.method import load, opened
from core.train import build


def choices(text: str) -> list[dict[str, str]]:
    """ "a=1,2 b.c=x,y" -> every combination, as {field: value}; the last changes first."""
    fields = []
    for part in text.split():
        name, equals, values = part.partition("=")
        if not (name and equals and values):
            raise ValueError(f"--sweep has {part!r}; write FIELD=VALUE,VALUE ...")
        fields.append([(name, value) for value in values.split(",")])
    if not fields:
        raise ValueError("--sweep is empty; write FIELD=VALUE,VALUE ...")
    return [dict(row) for row in itertools.product(*fields)]


def sweep(variants, *, steps: int, seconds: float):
    """Yield what is found of each of (choice, config): its step on one batch, repeated.

    What does not fit in memory or cannot be is told as "error"; what time is left for is
    not begun.
    """
    begin = time.perf_counter()
    for choice, config in variants:
        if time.perf_counter() - begin > seconds:
            yield {**choice, "error": f"not begun: {seconds:.0f} s are over"}
            continue
        try:
            yield {**choice, **measure(config, steps=steps)}
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            text = str(error).strip().splitlines()[0][:160]
            yield {**choice, "error": text}
        jax.clear_caches()


def measure(config, *, steps: int) -> dict:
    """Seconds of a step, of examples, use of the peak, memory."""
    settings.check(config.to_dict())
    method, mesh = load(config), sharding.make_mesh(**config.mesh)
    plan = build(method, mesh, seed=config.seed, offload=config.offload)
    with opened(method, sharding.host_shard(mesh, method.batch)) as source:
        batch = source.next(state := plan.create())
    times = []
    with jax.set_mesh(mesh):
        batch = sharding.to_device(mesh, batch, method.batch)
        for _ in range(steps + 1):
            begin = time.perf_counter()
            state, scalars = plan.step(state, batch)
            jax.block_until_ready((state, scalars))
            times.append(time.perf_counter() - begin)
    first, *times = times
    median = float(np.median(times))
    device = jax.devices()[0].device_kind
    return {
        "step_seconds_median": median,
        "step_seconds_min": min(times),
        f"{method.unit}_per_second": method.batch / median,
        "mfu": metrics.mfu(method.flops, median, jax.device_count(), device),
        "compile_seconds": first - median,
        **metrics.device_memory(),
    }


def row(found: dict) -> str:
    """One finding as a line for people."""
    parts = [f"{k} {v}" for k, v in found.items() if isinstance(v, str)]
    parts += [
        f"{k} {metrics.short(v)}" for k, v in found.items() if isinstance(v, float)
    ]
    return "  ".join(parts)


def as_json(found: dict) -> str:
    return json.dumps(found)
