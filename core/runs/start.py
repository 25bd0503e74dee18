"""How a state begins: resume, another run's checkpoint, or afresh."""

import jax
import numpy as np

from core.runs import checkpoint


def begin(plan, checkpoints, source, *, init_from: str):
    """(state, steps done): resume this run, else start from a checkpoint, else afresh."""
    if checkpoints.latest() is not None:
        state, cursor = checkpoints.restore(plan.shapes, plan.layouts)
        source.set_state(cursor)
        return state, int(state.step)
    if init_from:
        state = checkpoint.read(init_from, plan.shapes, plan.layouts)
        fresh = {
            name: jax.device_put(np.zeros((), np.int32), getattr(plan.layouts, name))
            for name in ("step", "bad_steps")
        }
        return state.replace(**fresh), 0
    return plan.create(), 0
