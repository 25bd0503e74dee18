"""Sweeps over combinations of settings, within a time limit."""

import itertools
import math
import time

import jax
import numpy as np

from core.base.text import short
from core.config import check_config
from core.method import open_source
from core.parallel.batches import host_shard, to_device
from core.perf import bench
from core.program import plan_program

MEASURED = ("step_seconds_median", "mfu", "compile_seconds", "device_peak_bytes")
FORECAST = (
    "peak_bytes",
    "memory_share",
    "step_seconds_bound",
    "mfu_bound",
    "mfu_serial",
)


def choices(text: str) -> list[dict[str, str]]:
    """ "a=1,2 b.c=x,y" -> every combination as {field: value}; the last field varies fastest.

    Raises ValueError if `text` has another form.
    """
    fields = []
    for part in text.split():
        name, equals, values = part.partition("=")
        if not (name and equals and values):
            raise ValueError(f"--sweep has {part!r}; expected FIELD=VALUE,VALUE ...")
        fields.append([(name, value) for value in values.split(",")])
    if not fields:
        raise ValueError("--sweep is empty; expected FIELD=VALUE,VALUE ...")
    return [dict(row) for row in itertools.product(*fields)]


def sweep(variants, measure, *, seconds: float = math.inf):
    """Yield {"choice": choice, **measure(config)} for each (choice, config) of `variants`.

    An invalid config, or one that does not fit in memory, yields its message as "error".
    After `seconds` no more are started; they yield an "error" too.
    """
    begin = time.perf_counter()
    for choice, config in variants:
        if time.perf_counter() - begin > seconds:
            yield {
                "choice": choice,
                "error": f"not started: the limit of {seconds:.0f} s is over",
            }
            continue
        try:
            yield {"choice": choice, **measure(config)}
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            text = str(error).strip().splitlines()[0][:160]
            yield {"choice": choice, "error": text}
        jax.clear_caches()


def measure_on_one_batch(config, *, steps: int) -> dict:
    """`bench.summarize_times` of `steps` steps that all take the same batch."""
    check_config(config.to_dict())
    method, plan = plan_program(config)
    mesh = plan.mesh
    with open_source(method, host_shard(mesh, method.batch)) as source:
        batch = source.next(state := plan.create())
    times = []
    with jax.set_mesh(mesh):
        batch = to_device(mesh, batch, method.batch)
        for _ in range(steps + 1):
            begin = time.perf_counter()
            state, scalars = plan.step(state, batch)
            jax.block_until_ready((state, scalars))
            times.append(time.perf_counter() - begin)
    times = np.array(times)
    return bench.summarize_times(method, plan, np.zeros_like(times), times)


def row(found: dict) -> str:
    """One result of `sweep` as a line of text: the choice and the main numbers."""
    texts = {k: v for k, v in found.items() if isinstance(v, str)}
    parts = [f"{k} {v}" for k, v in (found["choice"] | texts).items()]
    main = [k for k in found if k in MEASURED + FORECAST or k.endswith("s_per_second")]
    parts += [f"{k} {short(found[k])}" for k in main if found[k] is not None]
    return "  ".join(parts)
