"""One update of networks beside what the loss only reads, by AdamW."""

from collections.abc import Callable
from typing import Any

import jax

from core import optim
from core.update import guarded_update


def make_step(
    init,
    loss_fn,
    *,
    frozen: Callable[[Any], Any],
    dtype,
    lr,
    decay,
    betas,
    eps,
    clip_norm,
    clip_each: float = 0.0,
    accumulate: int = 1,
    seed: int | None = None,
):
    """(state, batch) -> (state, metrics): AdamW on `params`.

    Args:
      init: key -> boxed state. loss_fn: as of core.update.guarded_update.
      frozen: state -> what the loss reads besides.
      dtype: of kernels on their way between devices.
      lr, decay: schedules of the 1-based update count.
      clip_norm, clip_each: limits of the gradients' norm, of all networks together and of
        each; 0 never clips.
      accumulate: parts that a batch is taken in.
      seed: gives the loss batch["keys"], one per row; None gives none.
    """

    def step(state, batch):
        s = state.step + 1
        like = jax.eval_shape(init, jax.random.key(0))
        if seed is not None:
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            rows = len(jax.tree.leaves(batch)[0])
            batch = {**batch, "keys": jax.random.split(key, rows)}

        def optimize(grads, metrics, rows):
            if clip_each:
                grads = {k: optim.clip(x, clip_each) for k, x in grads.items()}
            if clip_norm:
                grads = optim.clip(grads, clip_norm)
            params, opt = optim.adamw(
                grads,
                state.opt,
                state.params,
                lr=lr(s),
                decay=decay(s),
                betas=betas,
                eps=eps,
            )
            return {"params": params, "opt": opt}, metrics | {"lr": lr(s)}

        return guarded_update(
            state,
            batch,
            loss_fn=loss_fn,
            frozen=frozen(state),
            like=(like.params, frozen(like)),
            optimize=optimize,
            dtype=dtype,
            accumulate=accumulate,
        )

    return step
