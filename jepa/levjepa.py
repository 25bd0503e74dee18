"""LeVJEPA as a Method: one encoder, views of a clip, no target, predictor or mask blocks.

Source: arXiv 2608.27395. The embeddings of all views of a clip are to be equal, and those of
a view over all clips standard normal (SIGReg). The encoder sees few random tokens of each.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core import optim
from core.data.clips import LocalViews
from core.method import Method, Tools
from core.section import Section
from core.update import guarded_update
from jepa.evals.standard import make_validation_batch, make_world_evals
from jepa.evals.view_health import make_health
from jepa.evals.view_pictures import kept_picture, make_pictures
from jepa.inputs.clips import make_benches, make_example, make_view_source
from jepa.inputs.color_jitter import ViewJitter, draw_view_factors, standardize_views
from jepa.inputs.token_drop import TokenDrop
from jepa.losses.sigreg import sigreg
from jepa.nets.encode import make_frozen
from jepa.nets.model import encoder_size, standardize, together
from jepa.nets.networks import token_grid
from jepa.nets.view_model import Projector, View, ViewEncoder
from jepa.perf import flops
from jepa.weights import readers
from jepa.weights.exports import make_view_exports

JITTER, SLICES = range(2)  # streams of keys, folded into that of the step


@struct.dataclass
class State:
    """Weights, moments and counters of one run."""

    step: jax.Array
    params: dict  # "encoder", "projector"
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # consecutive updates that were not finite and not applied

    @property
    def target(self):
        """The weights that evaluations and exports take: the encoder as trained."""
        return self.params["encoder"]


@struct.dataclass
class AveragedState:
    """State with a moving average of the encoder, which only evaluations and exports read."""

    step: jax.Array
    params: dict  # "encoder", "projector"
    target: dict  # EMA of params["encoder"], float32
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array


def make_init(encoder: ViewEncoder, projector: Projector, *, grid, average: float):
    """key -> State with boxed arrays; AveragedState if `average` is above 0."""

    def init(key):
        keys = jax.random.split(key)
        pixels = 3 * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
        index = jnp.arange(grid[0])[None] * grid[1] * grid[2]
        first = encoder.init(
            keys[0], jnp.zeros((1, grid[0], pixels)), index, grid=grid
        )["params"]
        second = projector.init(keys[1], jnp.zeros((1, 1, encoder.width)))["params"]
        params = {"encoder": first, "projector": second}
        zero = jnp.zeros((), jnp.int32)
        rest = {"step": zero, "opt": optim.adam_moments(params), "bad_steps": zero}
        if average:
            return AveragedState(params=params, target=first, **rest)
        return State(params=params, **rest)

    return init


def make_embed(encoder: ViewEncoder, projector: Projector, *, grid, local_grid):
    """(params, batch) -> (features [B, 1 + V, D], embeddings [B, 1 + V, P]).

    Of the summary tokens of the global view, which comes first, and of V local ones. batch:
    what `TokenDrop` makes, and `colour` [B, V, 5] for the local views; none without it.
    """

    def embed(params, batch):
        local = batch["local_patches"]
        B, V = local.shape[:2]
        flat = {
            name: x.reshape(B * V, *x.shape[2:])
            for name, x in batch.items()
            if name in ("local_patches", "local_index", "local_mean", "colour")
        }
        local = flat["local_patches"]
        if "colour" in batch:
            local = standardize_views(local, flat["local_mean"], flat["colour"])
        else:
            local = standardize(local)
        views = (
            View(standardize(batch["patches"]), grid, batch["index"]),
            View(local, local_grid, flat["local_index"]),
        )
        first, rest = together(encoder, params["encoder"], views, summary=True)
        features = jnp.concatenate([first[:, None], rest.reshape(B, V, -1)], 1)
        return features, projector.apply({"params": params["projector"]}, features)

    return embed


def make_loss(embed, *, sigreg_weight: float, slices: int):
    """Loss of (params, {}, prepared batch, key) -> (scalar, (metrics, {})).

    Mean square distance of all views to the global one, its own 0 included, plus
    `sigreg_weight` times SIGReg, a mean over views with the global number of clips as its
    factor; the gradient passes through both sides of the distance.

    Args:
      embed: what `make_embed` returns. slices: random directions of SIGReg.
    """

    def loss_fn(params, frozen, batch, key):
        _, z = embed(params, batch)
        invariance = jnp.square(z[:, :1] - z).mean()
        key = jax.random.fold_in(key, SLICES)
        normal = sigreg(z.swapaxes(0, 1), key, slices=slices)
        total = invariance + sigreg_weight * normal
        metrics = {"loss": total, "invariance": invariance, "sigreg": normal}
        return total, (metrics, {})

    return loss_fn


def make_step(
    init, loss_fn, *, jitter: ViewJitter, dtype, lr, decay, average, betas, eps, seed
):
    """(state, batch) -> (state, metrics): AdamW on encoder and projector.

    Args:
      jitter: colors of the local views. dtype: of kernels on their way between devices.
      lr, decay: schedules, functions of the 1-based update count.
      average: momentum of the average for evaluations; 0 keeps none.
    """

    def step(state, batch):
        s = state.step + 1
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        like = jax.eval_shape(init, key)
        views = batch["local_patches"].shape[:2]
        if any((*jitter[:4], jitter.gray)):
            factors = draw_view_factors(jitter, views, jax.random.fold_in(key, JITTER))
            batch = {**batch, "colour": factors}

        def optimize(grads, metrics, rows):
            params, opt = optim.adamw(
                grads, state.opt, state.params, lr=lr(s), decay=decay(s), betas=betas,
                eps=eps,
            )  # fmt: skip
            changes = {"params": params, "opt": opt}
            if average:
                changes["target"] = optim.ema(state.target, params["encoder"], average)
            return changes, metrics | {"lr": lr(s)}

        return guarded_update(
            state,
            batch,
            loss_fn=lambda *given: loss_fn(*given, key),
            frozen={},
            like=(like.params, {}),
            optimize=optimize,
            dtype=dtype,
        )

    return step


def make(config: Section) -> Method:
    """The Method of a config of LeVJEPA.

    Raises ValueError that names the field for values that do not fit together.
    """
    data, seed, batch = config["data"], config["seed"], config["batch"]
    refuse_parts(config["accumulate"])
    encoder = config["encoder"].without("size").into(
        ViewEncoder, **encoder_size(config["encoder"]["size"]),
        dtype=jnp.dtype(config["dtype"]),
    )  # fmt: skip
    projector = config["projector"].into(Projector, dtype=encoder.dtype)
    views, optimizer = config["views"], config["optimizer"]
    local = views.without("keep").into(LocalViews)
    grid = token_grid(encoder.patch, frames=data["frames"], size=data["size"])
    drop = TokenDrop(
        encoder.patch, grid, local_grid(encoder.patch, data["frames"], local),
        views["keep"], per_step=encoder.causal,
    )  # fmt: skip
    embed = make_embed(encoder, projector, grid=grid, local_grid=drop.local_grid)
    average = optimizer["average"]
    init = make_init(encoder, projector, grid=grid, average=average)
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=config["steps"])
        for name in ("lr", "decay")
    }
    step = optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=config["objective"].into(make_loss, embed=embed),
        jitter=config["colour"].into(ViewJitter),
        dtype=encoder.dtype,
        seed=seed,
        **schedules,
    )
    read = functools.partial(
        make_view_source, drop=drop, local=local, seed=seed, data=data
    )
    frozen = make_frozen(encoder, init, seed=seed, data=data)
    if not average:  # then both are the same weights
        weights = {k: v for k, v in frozen.weights.items() if k != "online"}
        frozen = frozen._replace(weights=weights)
    held = make_validation_batch(read, size=config["held_batch"], data=data)
    counts = drop.counts()
    return Method(
        init=init,
        step=step,
        source=functools.partial(read, batch=batch),
        evals=make_world_evals(encoder, grid, init, frozen=frozen, config=config)
        | {
            "health": make_health(embed, width=encoder.width, batch=held),
            "pictures": make_pictures(encoder, drop, batch=held, data=data, seed=seed),
        },
        exports=make_view_exports(encoder, average=average, config=config.to_dict()),
        batch=batch,
        unit="clips",
        frozen_fields=("step", "params", *(("target",) if average else ())),
        parts=parts_of(average),
        readers={"export folder": readers.read_export},
        frozen=frozen,
        costs=flops.make_view_costs(
            encoder,
            projector,
            counts=(counts[0], *[counts[1]] * local.count),
            batch=batch,
        ),
        tools=Tools(
            benches=make_benches(seed=seed, data=data),
            draw=functools.partial(kept_picture, drop=drop),
            example=make_example(drop, data=data, local=local),
        ),
    )


def refuse_parts(accumulate: int) -> None:
    """Raise ValueError if a batch is taken in parts."""
    if accumulate > 1:
        raise ValueError(
            f"accumulate is {accumulate}, but SIGReg and batch norm look at all clips of a "
            "batch together; use 1"
        )


def local_grid(patch, frames: int, local: LocalViews) -> tuple[int, int, int]:
    """Tokens of a local view.

    Raises ValueError for no views, and for a crop that is not a whole number of patches.
    """
    if local.count < 1:
        raise ValueError(f"views.count is {local.count}; use 1 or more local views")
    side = patch[1]
    if local.size < side or local.size % side:
        low = max(side, local.size // side * side)
        below = "below one patch" if local.size < side else "no whole number of patches"
        raise ValueError(
            f"views.size is {local.size} pixels, {below} of {side}; use {low} or {low + side}"
        )
    return frames // patch[0], local.size // side, local.size // side


def parts_of(average: float) -> dict[str, tuple[str, ...]]:
    """Weights by name for `config.init_parts`."""
    copies = ("target",) if average else ()
    return {
        "encoder": ("params/encoder", *copies),
        "projector": ("params/projector",),
        "opt": ("opt",),
    } | ({"target": copies} if average else {})
