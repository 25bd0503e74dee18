"""The programs of a run on its mesh: shapes, layouts, jitted init and step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from core.config import load_method
from core.method import Method
from core.parallel.layouts import on_host, shardings, unbox
from core.parallel.mesh import make_mesh
from core.update import keep_if


class Program(NamedTuple):
    """What a run needs on its mesh.

    shapes: the state as boxed shapes. layouts: their NamedShardings. device_layouts: the
    same with no field in host memory. create: () -> first state. step: (state, batch) ->
    (state, metrics), state donated.
    """

    mesh: jax.sharding.Mesh
    shapes: Any
    layouts: Any
    device_layouts: Any
    create: Callable[[], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]


def build_program(
    method: Method,
    mesh: jax.sharding.Mesh,
    *,
    seed: int,
    offload: str = "",
    norm: float = 0.0,
) -> Program:
    """Shapes first, then layouts, so that no array is ever created unsharded.

    norm: updates with a larger `grad_norm` are not applied; 0 applies all that are finite.

    offload: comma-separated fields of the state that wait in host memory between steps;
    raises ValueError for a field that the state lacks or a device without such memory.
    """

    def init():
        return method.init(jax.random.key(seed))

    shapes = jax.eval_shape(init)
    device_layouts = shardings(mesh, shapes)
    away = on_host(mesh, device_layouts, tuple(filter(None, offload.split(","))))
    layouts = device_layouts.replace(**away)

    take = functools.partial(limited, method.step, norm) if norm else method.step

    def step(state, batch):
        fetched = {
            name: jax.device_put(getattr(state, name), getattr(device_layouts, name))
            for name in away
        }
        return take(state.replace(**fetched), batch)

    replicated = NamedSharding(mesh, PartitionSpec())
    options = {}
    if mesh.size == 1:  # others order collectives, which wait for one another
        options |= method.compile_options.get(mesh.devices.flat[0].platform, {})
    compiled = functools.partial(jax.jit, compiler_options=options or None)
    create = compiled(lambda: unbox(init()), out_shardings=layouts)
    step = compiled(step, donate_argnums=0, out_shardings=(layouts, replicated))
    return Program(mesh, shapes, layouts, device_layouts, create, step)


def limited(step: Callable, norm: float, state, batch):
    """`step` of a method, but an update with a `grad_norm` above `norm` counts as bad.

    As with one that is not finite, only `step` and `bad_steps` of the state change.
    """
    after, metrics = step(state, batch)
    if "grad_norm" not in metrics:
        raise ValueError(
            "guard.norm needs a method whose metrics have grad_norm; use 0 here"
        )
    ok = metrics["grad_norm"] <= norm
    bad_steps = jnp.where(ok, after.bad_steps, state.bad_steps + 1)
    after = keep_if(ok, after, state).replace(step=after.step, bad_steps=bad_steps)
    return after, {**metrics, "bad_steps": bad_steps}


def plan_program(
    config, *, devices=None, platform: str | None = None
) -> tuple[Method, Program]:
    """The method and the program of a config.

    devices: those of the mesh; by default all that are here. platform: that they are of.
    """
    method = load_method(config, platform)
    mesh = make_mesh(devices=devices, **config.mesh)
    return method, build_program(method, mesh, seed=config.seed, offload=config.offload)
