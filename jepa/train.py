"""V-JEPA as a Method: state, loss, step, and what a config becomes (arXiv 2506.09985)."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core import nn as parts
from core import optim
from core.method import Method
from jepa import evals, flops, loss, source
from jepa.masks import Masker, Pattern
from jepa.model import Encoder, Predictor, encoder_size, grid_of, patchify, standardize, take


@struct.dataclass
class State:
    step: jax.Array
    params: dict  # "encoder", "predictor"
    target: dict  # EMA of params["encoder"], float32
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # updates in a row that were not applied


def make_init(encoder, predictor, *, grid):
    """(key) -> State with boxed arrays: the target starts as a copy of the encoder."""

    def init(key):
        keys = jax.random.split(key)
        pixels = 3 * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
        index = jnp.zeros((1, 1), jnp.int32)
        features = jnp.zeros((1, 1, encoder.width))
        params = {
            "encoder": encoder.init(
                keys[0], jnp.zeros((1, 1, pixels)), index, grid=grid
            )["params"],
            "predictor": predictor.init(
                keys[1], features, index, index, grid=grid, use=(0,)
            )["params"],
        }
        zero = jnp.zeros((), jnp.int32)
        return State(zero, params, params["encoder"], optim.adam_moments(params), zero)

    return init


def make_loss(
    encoder, predictor, masker, *, mask_tokens, context=0.0, sigreg=0.0, vicreg=0.0
):
    """Loss of (params, target, batch, key) -> (scalar, terms).

    Predicts the normalised features of the EMA target at hidden tokens, L1. The rest is
    off in the published presets: `context` weighs the same error at visible tokens,
    `sigreg` and `vicreg` weigh terms on the features that keep them spread.
    """
    grid, sizes = masker.grid, {n: masker.sizes(n) for n in ("context", "target")}

    def loss_fn(params, target, batch, key):
        patches = patchify(batch["video"], encoder.patch)
        features = encoder.apply(
            {"params": params["encoder"]},
            standardize(take(patches, batch["context"])),
            batch["context"],
            grid=grid,
            valid=batch["context_valid"],
            segments=sizes["context"],
        )
        truth = encoder.apply({"params": target}, standardize(patches), grid=grid)
        truth = jax.lax.stop_gradient(parts.normalize(truth, eps=1e-5))
        guess = predictor.apply(
            {"params": params["predictor"]},
            features,
            batch["context"],
            batch["target"],
            grid=grid,
            use=mask_tokens,
            context_sizes=sizes["context"],
            target_sizes=sizes["target"],
            context_valid=batch["context_valid"],
            target_valid=batch["target_valid"],
        )
        total, terms = loss.masked_l1(
            guess, take(truth, batch["target"]), batch["target_valid"], sizes["target"]
        )
        metrics = {"loss": total}
        metrics |= {f"loss_pattern{i}": term for i, term in enumerate(terms)}
        metrics |= ratios(batch, masker)
        return total, metrics

    return loss_fn


def ratios(batch, masker):
    """Realised masking ratio per pattern: the share of the clip that the encoder misses."""
    tokens = masker.grid[0] * masker.grid[1] * masker.grid[2]
    seen = loss.per_pattern(batch["context_valid"], masker.sizes("context"))
    hidden = loss.per_pattern(batch["target_valid"], masker.sizes("target"))
    metrics = {}
    for i, (c, t) in enumerate(zip(seen, hidden, strict=True)):
        metrics[f"masked_ratio{i}"] = 1 - c.sum(1).mean() / tokens
        metrics[f"target_ratio{i}"] = t.sum(1).mean() / tokens
    return metrics


def make_step(loss_fn, *, lr, decay, momentum, betas, eps, clip_norm, clip_steps, seed):
    """(state, batch) -> (state, metrics); an update that is not finite is not applied.

    lr, decay and momentum are schedules of the 1-based update count. Gradients of the
    encoder and of the predictor are clipped apart, to `clip_norm`, after `clip_steps`
    updates; 0 never clips.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def step(state, batch):
        s = state.step + 1
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (total, metrics), grads = grad_fn(state.params, state.target, batch, key)
        norm = optax.global_norm(grads)
        if clip_norm:
            limit = jnp.where(s > clip_steps, clip_norm, jnp.inf)
            grads = {name: optim.clip(g, limit) for name, g in grads.items()}
        params, opt = optim.adamw(
            grads, state.opt, state.params, lr=lr(s), decay=decay(s), betas=betas, eps=eps
        )
        target = optim.ema(state.target, params["encoder"], momentum(s))
        ok = jnp.isfinite(total) & jnp.isfinite(norm)
        new, old = (params, target, opt), (state.params, state.target, state.opt)
        bad = jnp.where(ok, 0, state.bad_steps + 1)
        metrics |= {
            "grad_norm": norm, "lr": lr(s), "momentum": momentum(s), "bad_steps": bad,
        }
        return State(s, *optim.keep_if(ok, new, old), bad), metrics

    return step
