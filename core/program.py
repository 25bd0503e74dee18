"""The programs of a run on its mesh: shapes, layouts, jitted init and step."""

from typing import NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from core.config import load_method
from core.method import Method
from core.parallel.layouts import on_host, shardings, unbox
from core.parallel.mesh import make_mesh


class Program(NamedTuple):
    """What a run needs on its mesh: shapes, layouts, and the two compiled programs."""

    mesh: jax.sharding.Mesh
    shapes: object
    layouts: object
    near: object  # the same with nothing in the host's memory
    create: object
    step: object


def build_program(method: Method, mesh, *, seed: int, offload: str = "") -> Program:
    """Shapes first, then layouts; nothing is ever created unsharded.

    offload: fields of the state that wait in the host's memory, with commas between.
    """

    def init():
        return method.init(jax.random.key(seed))

    shapes = jax.eval_shape(init)
    near = shardings(mesh, shapes)
    away = on_host(mesh, near, tuple(filter(None, offload.split(","))))
    layouts = near.replace(**away)

    def step(state, batch):
        here = {k: jax.device_put(getattr(state, k), getattr(near, k)) for k in away}
        return method.step(state.replace(**here), batch)

    everywhere = NamedSharding(mesh, PartitionSpec())
    create = jax.jit(lambda: unbox(init()), out_shardings=layouts)
    step = jax.jit(step, donate_argnums=0, out_shardings=(layouts, everywhere))
    return Program(mesh, shapes, layouts, near, create, step)


def plan_program(config, *, devices=None, platform: str | None = None):
    """(method, plan) of a config, on all devices that are here or on others."""
    method = load_method(config, platform)
    mesh = make_mesh(devices=devices, **config.mesh)
    return method, build_program(method, mesh, seed=config.seed, offload=config.offload)
