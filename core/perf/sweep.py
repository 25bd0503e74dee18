"""A step with other settings, one after the other, in one call and a given time."""

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
FORETOLD = (
    "peak_bytes",
    "memory_share",
    "step_seconds_bound",
    "mfu_bound",
    "mfu_serial",
)


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


def sweep(variants, look, *, seconds: float = math.inf):
    """Yield what `look(config)` finds, a dict, of each of (choice, config), and "choice".

    What does not fit in memory or cannot be is told as "error"; what no time is left for
    is not begun.
    """
    begin = time.perf_counter()
    for choice, config in variants:
        if time.perf_counter() - begin > seconds:
            yield {"choice": choice, "error": f"not begun: {seconds:.0f} s are over"}
            continue
        try:
            yield {"choice": choice, **look(config)}
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            text = str(error).strip().splitlines()[0][:160]
            yield {"choice": choice, "error": text}
        jax.clear_caches()


def measure(config, *, steps: int) -> dict:
    """What the times of a config's steps say, on one batch, again and again."""
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
    return bench.account(method, plan, np.zeros_like(times), times)


def row(found: dict) -> str:
    """One finding as a line for people: what was chosen, and what matters of it."""
    texts = {k: v for k, v in found.items() if isinstance(v, str)}
    parts = [f"{k} {v}" for k, v in (found["choice"] | texts).items()]
    told = [k for k in found if k in MEASURED + FORETOLD or k.endswith("s_per_second")]
    parts += [f"{k} {short(found[k])}" for k in told if found[k] is not None]
    return "  ".join(parts)
