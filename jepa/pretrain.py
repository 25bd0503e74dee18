"""V-JEPA as a Method: state, loss, step, what a config becomes (arXiv 2506.09985)."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core import optim
from core.data.decoding.planar_rgb import planar_to_rgb
from core.method import Method, Tools
from core.nn.layers import normalize
from core.nn.token_order import take
from core.section import Section
from core.update import guarded_update
from jepa.evals import standard
from jepa.evals.pictures import mask_picture
from jepa.evals.surprise import make_surprise
from jepa.inputs.clips import (
    VideoWithMasks,
    make_benches,
    make_example,
    make_train_source,
)
from jepa.inputs.color_jitter import NO_JITTER, Jitter, draw_factors, standardize_clips
from jepa.inputs.masks import Masker, make_patterns
from jepa.losses import masked
from jepa.nets.encode import make_frozen
from jepa.nets.model import patchify
from jepa.nets.networks import make_networks, mask_tokens_of, token_grid
from jepa.perf import flops
from jepa.weights import readers
from jepa.weights.exports import make_exports

JITTER_STREAM = 1  # of keys, folded into that of the step
# R2 of probes; encoders beside the target are baselines.
BETTER = {"probe.*": "higher"} | dict.fromkeys(
    [f"labels.{name}/*" for name in ("online", "untrained", "pixels")], ""
)


@struct.dataclass
class State:
    """Weights, their average, moments and counters of one run."""

    step: jax.Array
    params: dict  # "encoder", "predictor"
    target: dict  # EMA of params["encoder"], float32
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # consecutive updates that were not finite and not applied


def make_init(encoder, predictor, *, grid):
    """key -> State with boxed arrays; the target starts as a copy of the encoder."""

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


def make_prepare(masker, jitter: Jitter = NO_JITTER, *, patch=(), motion=0.0):
    """(batch, key) -> the batch with values that depend on all its clips together.

    Adds `target_weight` [B, M], the weight of each hidden token, and, with color jitter,
    `colour` [B, 3], factors that change a clip's context and targets alike.

    motion: share of the weight that goes to tubelets of `patch` as they move; 0 in the
    published recipes.
    """
    sizes = masker.sizes("target")

    def prepare(batch, key):
        weight = masked.token_weights(batch["target_valid"], sizes)
        if motion:
            patches = patchify(planar_to_rgb(batch["video"]), patch)
            moved = masked.moving(patches, masker.grid)
            moved = jnp.take_along_axis(moved, batch["target"], 1)
            weight = masked.shift_to_motion(weight, moved, sizes, motion)
        key = jax.random.fold_in(key, JITTER_STREAM)
        factors = draw_factors(jitter, len(weight), key)
        more = {} if factors is None else {"colour": factors}
        return {**batch, "target_weight": weight, **more}

    return prepare


def make_loss(encoder, predictor, masker, *, mask_tokens, sigreg=0.0, vicreg=0.0):
    """Loss of (params, target, prepared batch, key) -> (scalar, (metrics, {})).

    Mean absolute error between predictions and normalized features of the EMA target at
    hidden tokens (arXiv 2506.09985, section 2.1).

    Args:
      mask_tokens: number of the mask token of each pattern.
      sigreg, vicreg: weights of terms against collapse of the encoder's features; 0 in
        the published recipes. With them the loss is no longer a mean over clips.
    """
    grid, sizes = masker.grid, {n: masker.sizes(n) for n in ("context", "target")}

    def loss_fn(params, target, batch, key):
        patches = patchify(planar_to_rgb(batch["video"]), encoder.patch)
        patches = standardize_clips(patches, batch.get("colour"))
        features = encoder.apply(
            {"params": params["encoder"]},
            take(patches, batch["context"]),
            batch["context"],
            grid=grid,
            valid=batch["context_valid"],
            segments=sizes["context"],
        )
        truth = encoder.apply({"params": target}, patches, grid=grid)
        truth = jax.lax.stop_gradient(normalize(truth, eps=1e-5))
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
        total, terms = masked.masked_l1(
            guess, take(truth, batch["target"]), batch["target_weight"], sizes["target"]
        )
        metrics = {"loss_prediction": total}
        metrics |= {f"loss_pattern{i}": term for i, term in enumerate(terms)}
        metrics |= masked.mask_ratios(batch, masker)
        if sigreg or vicreg:
            extra, terms = masked.spread(
                features,
                batch["context_valid"],
                batch["context"],
                key,
                tokens=math.prod(grid),
                sigreg_weight=sigreg,
                vicreg_weight=vicreg,
            )
            total, metrics = total + extra, metrics | terms
        return total, (metrics | {"loss": total}, {})

    return loss_fn


def make_step(
    init,
    loss_fn,
    *,
    prepare,
    dtype,
    lr,
    decay,
    momentum,
    betas,
    eps,
    clip_norm,
    clip_steps,
    accumulate,
    seed,
    truth="target",
    averages=(("target", "encoder"),),
):
    """(state, batch) -> (state, metrics): AdamW on the params, and their moving averages.

    Args:
      prepare: (batch, key) -> batch; sees the whole batch, before it is split.
      dtype: of kernels on their way between devices.
      lr, decay: schedules, functions of the 1-based update count. momentum: likewise, but
        of the 0-based count, as in the released trainer.
      clip_norm: limit of the gradient norms of encoder and predictor, each by itself,
        after `clip_steps` updates; 0 never clips.
      accumulate: parts that a batch is taken in, one after another.
      truth: field of the state with the weights whose features are predicted.
      averages: fields of the state, and whose average in the params each is.
    """

    def step(state, batch):
        s = state.step + 1
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        like = jax.eval_shape(init, key)

        def optimize(grads, metrics, rows):
            if clip_norm:
                limit = jnp.where(s > clip_steps, clip_norm, jnp.inf)
                grads = {name: optim.clip(g, limit) for name, g in grads.items()}
            params, opt = optim.adamw(
                grads,
                state.opt,
                state.params,
                lr=lr(s),
                decay=decay(s),
                betas=betas,
                eps=eps,
            )
            m = momentum(state.step)
            changes = {"params": params, "opt": opt}
            for field, name in averages:
                changes[field] = optim.ema(getattr(state, field), params[name], m)
            return changes, metrics | {"lr": lr(s), "momentum": m}

        return guarded_update(
            state,
            prepare(batch, key),
            loss_fn=lambda *given: loss_fn(*given, key),
            frozen=getattr(state, truth),
            like=(like.params, getattr(like, truth)),
            optimize=optimize,
            dtype=dtype,
            accumulate=accumulate,
        )

    return step


def make(config: Section) -> Method:
    """The Method of a config of masked latent prediction.

    Raises ValueError that names the field for values that do not fit together.
    """
    data, masks, objective = config["data"], config["masks"], config["objective"]
    batch, seed, accumulate = config["batch"], config["seed"], config["accumulate"]
    encoder, predictor = make_networks(
        dtype=config["dtype"], encoder=config["encoder"], predictor=config["predictor"]
    )
    grid = token_grid(encoder.patch, frames=data["frames"], size=data["size"])
    patterns = make_patterns(masks["patterns"])
    masker = Masker(patterns, grid, batch, seed, masks["truncation"])
    use = mask_tokens_of(
        len(patterns),
        per_pattern=objective["mask_token_per_pattern"],
        available=predictor.mask_tokens,
    )
    extra = objective.without("mask_token_per_pattern", "motion")
    check_accumulate(accumulate, extra)
    networks = {"encoder": encoder, "predictor": predictor, "masker": masker}
    loss_fn = extra.into(make_loss, **networks, mask_tokens=use)
    optimizer = config["optimizer"]
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=config["steps"])
        for name in ("lr", "decay", "momentum")
    }
    init = make_init(encoder, predictor, grid=grid)
    step = optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=loss_fn,
        prepare=make_prepare(
            masker,
            config["colour"].into(Jitter),
            patch=encoder.patch,
            motion=check_motion(objective),
        ),
        dtype=encoder.dtype,
        accumulate=accumulate,
        seed=seed,
        **schedules,
    )
    frozen = make_frozen(encoder, init, seed=seed, data=data)._replace(
        surprise=make_surprise(encoder, predictor, init, grid=grid, use=use, seed=seed)
    )
    read = functools.partial(make_train_source, masker=masker, seed=seed, data=data)
    return Method(
        init=init,
        step=step,
        source=functools.partial(read, batch=batch),
        evals=standard.make_evals(
            **networks, init=init, read=read, use=use, frozen=frozen, config=config
        ),
        exports=make_exports(encoder, predictor, use=use, config=config.to_dict()),
        batch=batch,
        unit="clips",
        frozen_fields=("step", "params", "target"),
        parts=readers.PARTS,
        readers=readers.make_readers(encoder, predictor),
        frozen=frozen,
        better=BETTER,
        costs=flops.make_costs(encoder, predictor, masker, accumulate=accumulate),
        tools=Tools(
            benches=make_benches(seed=seed, data=data),
            draw=functools.partial(mask_picture, masker=masker),
            example=make_example(VideoWithMasks(masker), data=data),
        ),
    )


def check_motion(objective: Section) -> float:
    """objective.motion, 0 where it is absent. Raises ValueError unless it is a share."""
    motion = objective["motion"] if "motion" in objective else 0.0
    if not 0 <= motion <= 1:
        raise ValueError(
            f"objective.motion is {motion}; use the share of the loss that goes to what "
            "moves, from 0 to 1"
        )
    return motion


def check_accumulate(accumulate: int, weights: Section) -> None:
    """Raise ValueError if a batch is split although a term needs all of its clips."""
    for name, weight in weights.items():
        if accumulate > 1 and weight:
            raise ValueError(
                f"accumulate is {accumulate}, but {weights.where(name)} looks at all clips "
                "of a batch together; use 1"
            )
