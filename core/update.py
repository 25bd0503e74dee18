"""One guarded update: gradients, the method's optimizer, non-finite steps skipped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core.parallel.gradients import mean_gradients


def keep_if(ok, new, old):
    """`new` where the scalar `ok` is true, else `old`, for trees of equal structure."""
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


def guarded_update(
    state: Any,
    batch: Any,
    *,
    loss_fn: Callable,
    frozen: Any,
    like: tuple,
    optimize: Callable,
    dtype: jnp.dtype,
    accumulate: int = 1,
    auto: tuple[str, ...] = (),
) -> tuple[Any, dict[str, jax.Array]]:
    """One update of a state: (new state, metrics).

    If the loss or the gradient norm is not finite, only `step` and `bad_steps` change.

    Args:
      state: core.method.State.
      batch: rows of all devices, [B, ...] each.
      loss_fn: (params, frozen, batch) -> (loss [], (metrics, rows)), a mean over the
        batch's rows; `metrics` are means too, `rows` arrays [B, ...].
      frozen: what the loss reads without gradient.
      like: (params, frozen) as boxed shapes, whose axis names give the layouts.
      optimize: (gradients, metrics, rows) -> (changes, metrics): new values of state
        fields by name, and the metrics to report.
      dtype: of kernels on their way between devices.
      accumulate: parts that the batch is taken in, one after another.
      auto: mesh axes left to the compiler.
    """
    loss, metrics, rows, grads = mean_gradients(
        loss_fn,
        state.params,
        frozen,
        batch,
        like=like,
        dtype=dtype,
        parts=accumulate,
        auto=auto,
    )
    norm = optax.tree.norm(grads)
    changes, metrics = optimize(grads, metrics, rows)
    ok = jnp.isfinite(loss) & jnp.isfinite(norm)
    changes = keep_if(ok, changes, {name: getattr(state, name) for name in changes})
    bad_steps = jnp.where(ok, 0, state.bad_steps + 1)
    state = state.replace(step=state.step + 1, bad_steps=bad_steps, **changes)
    return state, {**metrics, "grad_norm": norm, "bad_steps": bad_steps}
