"""Sums the positions of its data; those in `config.bad` have no finite loss."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from core.method import Method
from core.update import keep_if


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    bad_steps: jax.Array


class Positions:
    """Batch p is the number p, from 0."""

    def __init__(self):
        self.position = 0

    def next(self, state=None, stopping=None):
        self.position += 1
        return {"x": np.full((1,), self.position - 1, np.float32)}

    def get_state(self):
        return {"next_index": self.position}

    def set_state(self, state):
        self.position = state["next_index"]

    def report(self):
        return {"seen": self.position, "bad": 0, "new": [], "numbers": {}}

    def close(self):
        pass


def init(key):
    return State(jnp.int32(0), {"total": jnp.zeros(())}, jnp.int32(0))


def make(config) -> Method:
    bad = jnp.asarray(config.bad or (-1,), jnp.float32)

    def step(state, batch):
        x = batch["x"].sum()
        ok = ~jnp.isin(x, bad)
        total = keep_if(ok, state.params["total"] + x, state.params["total"])
        bad_steps = jnp.where(ok, 0, state.bad_steps + 1)
        metrics = {"loss": jnp.where(ok, x, jnp.nan), "grad_norm": x}
        state = State(state.step + 1, {"total": total}, bad_steps)
        return state, {**metrics, "bad_steps": bad_steps}

    return Method(
        init=init,
        step=step,
        source=lambda split, shard, folder=None: Positions(),
        evals={},
        exports={},
        batch=1,
    )


def config(**fields) -> ConfigDict:
    """Settings of a run of 20 steps; fields replace some."""
    whole = {
        "method": "toy.summing",
        "seed": 0,
        "batch": 1,
        "accumulate": 1,
        "steps": 20,
        "log_steps": 1,
        "save_steps": 2,
        "keep_checkpoints": 3,
        "max_bad_steps": 3,
        "guard": {"hang_s": 0.0, "rollback": 0, "norm": 0.0},
        "eval_steps": {},
        "mesh": {"replica": 1, "data": 1, "fsdp": 1, "sequence": 1, "tensor": 1},
        "init_from": "",
        "init_parts": "",
        "machine": "",
        "offload": "",
        "bad": (),
    }
    return ConfigDict(whole | fields)
