"""The programs of a run on its mesh: shapes, layouts, jitted init and step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from core.config import load_method
from core.method import Method
from core.parallel.layouts import on_host, shardings, unbox
from core.parallel.mesh import make_mesh


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
    method: Method, mesh: jax.sharding.Mesh, *, seed: int, offload: str = ""
) -> Program:
    """Shapes first, then layouts, so that no array is ever created unsharded.

    offload: comma-separated fields of the state that wait in host memory between steps;
    raises ValueError for a field that the state lacks or a device without such memory.
    """

    def init():
        return method.init(jax.random.key(seed))

    shapes = jax.eval_shape(init)
    device_layouts = shardings(mesh, shapes)
    away = on_host(mesh, device_layouts, tuple(filter(None, offload.split(","))))
    layouts = device_layouts.replace(**away)

    def step(state, batch):
        fetched = {
            name: jax.device_put(getattr(state, name), getattr(device_layouts, name))
            for name in away
        }
        return method.step(state.replace(**fetched), batch)

    replicated = NamedSharding(mesh, PartitionSpec())
    options = {}
    if mesh.size == 1:  # others order collectives, which wait for one another
        options |= method.compile_options.get(mesh.devices.flat[0].platform, {})
    compiled = functools.partial(jax.jit, compiler_options=options or None)
    create = compiled(lambda: unbox(init()), out_shardings=layouts)
    step = compiled(step, donate_argnums=0, out_shardings=(layouts, replicated))
    return Program(mesh, shapes, layouts, device_layouts, create, step)


def plan_program(
    config, *, devices=None, platform: str | None = None
) -> tuple[Method, Program]:
    """The method and the program of a config.

    devices: those of the mesh; by default all that are here. platform: that they are of.
    """
    method = load_method(config, platform)
    mesh = make_mesh(devices=devices, **config.mesh)
    return method, build_program(method, mesh, seed=config.seed, offload=config.offload)
