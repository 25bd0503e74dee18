"""V-JEPA as a Method: state, loss, step, what a config becomes (arXiv 2506.09985)."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core import optim
from core.data.pipeline import make_source
from core.data.planar_rgb import planar_to_rgb
from core.method import Costs, Method, Tools
from core.nn.layers import normalize
from core.nn.token_order import take
from core.update import guarded_update
from jepa import evals, flops, loss
from jepa.color_jitter import NO_JITTER, Jitter, draw_factors, make_look
from jepa.data import make_benches, make_records, make_train_source
from jepa.exports import make_exports
from jepa.health import make_health
from jepa.masks import Masker, Pattern
from jepa.model import Encoder, Predictor, encoder_size, patchify
from jepa.pictures import make_pictures, mask_picture

COLOUR = 1  # the stream of keys that it is drawn from


@struct.dataclass
class State:
    step: jax.Array
    params: dict  # "encoder", "predictor"
    target: dict  # EMA of params["encoder"], float32
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # updates in a row that were not applied


def make_init(encoder, predictor, *, grid):
    """key -> State with boxed arrays: the target starts as a copy of the encoder."""

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


def make_prepare(masker, colour: Jitter = NO_JITTER):
    """(batch, key) -> the batch with what its loss must know of all clips together.

    Adds the weight of each hidden token, and factors by which clips are discoloured,
    hidden tokens and seen ones alike, where `colour` says so.
    """

    def prepare(batch, key):
        weight = loss.token_weights(batch["target_valid"], masker.sizes("target"))
        key = jax.random.fold_in(key, COLOUR)
        factors = draw_factors(colour, len(weight), key)
        more = {} if factors is None else {"colour": factors}
        return {**batch, "target_weight": weight, **more}

    return prepare


def make_loss(encoder, predictor, masker, *, mask_tokens, sigreg=0.0, vicreg=0.0):
    """Loss of (params, target, prepared batch, key) -> (scalar, (metrics, {})).

    Predicts the normalised features of the EMA target at hidden tokens, L1. `sigreg`
    and `vicreg` weigh terms on the encoder's features against collapse; the published
    recipes have neither, and with them the loss is no mean over clips any more.
    """
    grid, sizes = masker.grid, {n: masker.sizes(n) for n in ("context", "target")}

    def loss_fn(params, target, batch, key):
        patches = patchify(planar_to_rgb(batch["video"]), encoder.patch)
        look = make_look(batch.get("colour"), patches)
        features = encoder.apply(
            {"params": params["encoder"]},
            look(take(patches, batch["context"])),
            batch["context"],
            grid=grid,
            valid=batch["context_valid"],
            segments=sizes["context"],
        )
        truth = encoder.apply({"params": target}, look(patches), grid=grid)
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
        total, terms = loss.masked_l1(
            guess, take(truth, batch["target"]), batch["target_weight"], sizes["target"]
        )
        metrics = {"loss_prediction": total}
        metrics |= {f"loss_pattern{i}": term for i, term in enumerate(terms)}
        metrics |= ratios(batch, masker)
        if sigreg or vicreg:
            extra, terms = loss.spread(
                features,
                batch["context_valid"],
                key,
                sigreg_weight=sigreg,
                vicreg_weight=vicreg,
            )
            total, metrics = total + extra, metrics | terms
        return total, (metrics | {"loss": total}, {})

    return loss_fn


def ratios(batch, masker):
    """Realised masking ratios per pattern: shares of a clip that the encoder misses."""
    tokens = masker.grid[0] * masker.grid[1] * masker.grid[2]
    seen = loss.per_pattern(batch["context_valid"], masker.sizes("context"))
    hidden = loss.per_pattern(batch["target_valid"], masker.sizes("target"))
    metrics = {}
    for i, (c, t) in enumerate(zip(seen, hidden, strict=True)):
        metrics[f"masked_ratio{i}"] = 1 - c.sum(1).mean() / tokens
        metrics[f"target_ratio{i}"] = t.sum(1).mean() / tokens
    return metrics


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
):
    """(state, batch) -> (state, metrics); an update that is not finite is not applied.

    lr, decay and momentum are schedules of the 1-based update count. Gradients of the
    encoder and of the predictor are clipped apart, to `clip_norm`, after `clip_steps`
    updates; 0 never clips. They are those of the whole batch, `prepare`d as such and
    taken in `accumulate` parts.
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
            target = optim.ema(state.target, params["encoder"], momentum(s))
            rates = {"lr": lr(s), "momentum": momentum(s)}
            return {"params": params, "target": target, "opt": opt}, metrics | rates

        return guarded_update(
            state,
            prepare(batch, key),
            loss_fn=lambda *given: loss_fn(*given, key),
            frozen=state.target,
            like=(like.params, like.target),
            optimize=optimize,
            dtype=dtype,
            accumulate=accumulate,
        )

    return step


def make_networks(*, dtype, encoder, predictor):
    """Encoder and predictor, from their config sections."""
    encoder, predictor = dict(encoder), dict(predictor)
    size = encoder_size(encoder.pop("size"))
    encoder = Encoder(**size, **encoder, dtype=jnp.dtype(dtype))
    predictor = Predictor(
        **predictor,
        out=encoder.width,
        positions=encoder.positions,
        rescale=encoder.rescale,
        remat=encoder.remat,
        attention=encoder.attention,
        dtype=encoder.dtype,
    )
    return encoder, predictor


def token_grid(patch, *, frames, size):
    """Tubelets along time, row and column; a clip must divide into them."""
    for field, length, part in (("frames", frames, patch[0]), ("size", size, patch[1])):
        if length % part or length < part:
            low = max(part, length // part * part)
            raise ValueError(
                f"data.{field} {length} does not divide into patches of {part}; "
                f"use {low} or {low + part}"
            )
    return frames // patch[0], size // patch[1], size // patch[2]


def make_patterns(patterns: dict) -> tuple[Pattern, ...]:
    """Mask patterns by name; their order fixes which mask token each may get."""
    return tuple(Pattern(**patterns[name]) for name in sorted(patterns, reverse=True))


def make(config) -> Method:
    """Everything that a config of masked latent prediction means."""
    resolved, config = config.to_dict(), config.to_dict()
    encoder, predictor = make_networks(
        dtype=config["dtype"], encoder=config["encoder"], predictor=config["predictor"]
    )
    data, seed, steps = config["data"], config["seed"], config["steps"]
    grid = token_grid(encoder.patch, frames=data["frames"], size=data["size"])
    patterns = make_patterns(config["masks"]["patterns"])
    masker = Masker(
        patterns, grid, config["batch"], seed, config["masks"]["truncation"]
    )
    own = config["objective"].pop("mask_token_per_pattern")
    use = tuple(i if own else 0 for i in range(len(patterns)))
    if max(use) >= predictor.mask_tokens:
        raise ValueError(
            f"predictor.mask_tokens is {predictor.mask_tokens} but {len(patterns)} "
            "mask patterns want one each"
        )
    init = make_init(encoder, predictor, grid=grid)
    loss_fn = make_loss(
        encoder,
        predictor,
        masker,
        mask_tokens=use,
        **config["objective"],
    )
    parts, extra = (
        config["accumulate"],
        [k for k, w in config["objective"].items() if w],
    )
    if parts > 1 and extra:
        raise ValueError(
            f"accumulate is {parts}, but objective.{extra[0]} looks at all clips of a "
            "batch together; use 1"
        )
    optimizer = config["optimizer"]
    for name in ("lr", "decay", "momentum"):
        optimizer[name] = optim.make_schedule(**optimizer[name], steps=steps)
    sizes = {name: masker.sizes(name) for name in ("context", "target")}
    shape = {"grid": grid, "batch": config["batch"], **sizes}
    useful, again = flops.step(encoder, predictor, **shape)
    read = functools.partial(make_train_source, masker=masker, seed=seed, data=data)
    return Method(
        init=init,
        step=make_step(
            init,
            loss_fn,
            prepare=make_prepare(masker, Jitter(**config["colour"])),
            dtype=encoder.dtype,
            **optimizer,
            accumulate=parts,
            seed=seed,
        ),
        source=functools.partial(read, batch=config["batch"]),
        evals=make_evals(
            encoder, predictor, masker, init, read, use=use, config=config
        ),
        exports=make_exports(encoder, predictor, use=use, config=resolved),
        batch=config["batch"],
        unit="clips",
        frozen_fields=("step", "params", "target"),
        costs=Costs(
            flops=useful,
            recomputed=again,
            gathers={
                "params": parts * (1 + (encoder.remat != "none")),
                "target": parts,
            },
            token_traffic=lambda mesh: flops.token_traffic(
                encoder, predictor, mesh, **shape
            ),
            dtype=encoder.dtype,
            memory_hint=memory_hint(encoder.remat),
        ),
        tools=Tools(
            benches=make_benches(seed=seed, data=data),
            draw=functools.partial(mask_picture, masker=masker),
        ),
    )


def memory_hint(remat: str) -> str:
    """The setting that saves most memory; empty where it is set already."""
    return "" if remat == "block" else f"set encoder.remat to 'block' (it is {remat!r})"


def make_evals(encoder, predictor, masker, init, read, *, use, config):
    """name -> function of the state: health, pictures, probe, baselines."""
    data, seed = config["data"], config["seed"]
    worlds = [
        make_records(split, seed=seed, **data)[0]
        for split in ("world", "world_validation")
    ]
    score = evals.make_score(
        encoder, masker.grid, train=worlds[0], held=worlds[1], **config["probe"]
    )

    @functools.cache
    def held():
        size = config["held_batch"]
        source = read("validation", (0, 1), batch=size, data=data | {"workers": 0})
        batch = source.next()
        source.close()
        return batch

    def labelled():
        pipeline = make_records("world", seed=seed, **data)[1]
        return make_source(worlds[0], batch=config["batch"], **pipeline)

    shared = {"masker": masker, "batch": held}
    return {
        "health": make_health(encoder, predictor, mask_tokens=use, **shared),
        "pictures": make_pictures(encoder, **shared),
        "probe": evals.make_probe(score),
        "baselines": evals.make_baselines(
            score,
            init,
            evals.make_twin(encoder, masker.grid, source=labelled),
            seed=seed,
        ),
    }
