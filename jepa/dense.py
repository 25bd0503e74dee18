"""V-JEPA 2.1 as a Method: context loss, deep supervision, images beside clips.

Source: arXiv 2603.14482. jepa/losses/dense.py has the loss; state and update are those of
jepa/pretrain.py.
"""

import functools

import jax
import jax.numpy as jnp

from core import optim
from core.method import Method, Tools
from core.section import Section
from jepa.evals import health, standard
from jepa.evals.pictures import mask_picture
from jepa.inputs.clips import (
    VideoWithMasks,
    make_benches,
    make_example,
    make_train_source,
)
from jepa.inputs.color_jitter import Jitter, standardize_clips
from jepa.inputs.masks import Masker, make_patterns
from jepa.losses.dense import (
    IMAGE,
    BothMasks,
    ContextLoss,
    Part,
    compare,
    make_loss,
    make_prepare,
)
from jepa.nets.dense_model import DenseEncoder, DensePredictor
from jepa.nets.encode import make_frozen
from jepa.nets.model import patchify
from jepa.nets.networks import make_dense_networks, mask_tokens_of, token_grid
from jepa.perf import flops
from jepa.pretrain import State, make_step
from jepa.weights import readers
from jepa.weights.exports import make_exports


def make_init(encoder: DenseEncoder, predictor: DensePredictor, *, grid):
    """key -> State with boxed arrays; the target starts as a copy of the encoder."""

    def init(key):
        keys = jax.random.split(key)
        pixels = 3 * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
        index = jnp.zeros((1, 1), jnp.int32)
        features = jnp.zeros((1, 1, predictor.levels * predictor.features))
        patches = jnp.zeros((1, 1, pixels))
        first = encoder.init(keys[0], patches, index, grid=grid)["params"]
        second = predictor.init(keys[1], features, index, index, grid=grid, use=(0,))
        params = {"encoder": first, "predictor": second["params"]}
        zero = jnp.zeros((), jnp.int32)
        return State(zero, params, params["encoder"], optim.adam_moments(params), zero)

    return init


def check_trainable(encoder: DenseEncoder, predictor: DensePredictor) -> None:
    """Raise ValueError for networks that can be evaluated but not trained."""
    if predictor.out != encoder.width:
        raise ValueError(
            f"predictor.out is {predictor.out}, the width of a teacher that is not here, but "
            f"the encoder is {encoder.width} wide; to train use --config.predictor.out=0 "
            "--config.init_parts=encoder, to evaluate other evaluations than health"
        )
    if predictor.levels not in (1, encoder.levels):
        raise ValueError(
            f"predictor.levels is {predictor.levels}, but encoder.levels is "
            f"{encoder.levels}; use {encoder.levels}, or 1 for the last level alone"
        )


def make(config: Section) -> Method:
    """The Method of a config of V-JEPA 2.1.

    Raises ValueError that names the field for values that do not fit together.
    """
    networks = make_dense_networks(
        dtype=config["dtype"], encoder=config["encoder"], predictor=config["predictor"]
    )
    grid = clip_grid(config, networks[0])
    return build(
        config,
        networks,
        init=make_init(*networks, grid=grid),
        check=lambda: check_trainable(*networks),
        health=make_health,
    )


def clip_grid(config: Section, encoder: DenseEncoder) -> tuple[int, int, int]:
    """Tokens of the config's clips along time, row and column."""
    data = config["data"]
    return token_grid(encoder.patch, frames=data["frames"], size=data["size"])


def build(
    config: Section,
    networks,
    *,
    init,
    check,
    health,
    teacher=None,
    learner=None,
    truth="target",
    averages=(("target", "encoder"),),
) -> Method:
    """A Method that predicts the levels of a clip from visible tokens.

    Args:
      networks: (DenseEncoder, DensePredictor). init: key -> State with boxed arrays.
      check: () -> None; raises ValueError where the networks cannot be trained.
      health: with the arguments of `make_health`.
      teacher: network whose features are predicted, by default the encoder; truth: field
        of the state that has its weights.
      learner: as of jepa.losses.dense.make_loss. averages: as of jepa.pretrain.make_step.
    """
    data, masks, objective = config["data"], config["masks"], config["objective"]
    batch, seed, steps = config["batch"], config["seed"], config["steps"]
    encoder, predictor = networks
    share = objective["image_share"]
    if not 0 <= share <= 1:
        raise ValueError(f"objective.image_share is {share}; use a number from 0 to 1")
    grid = clip_grid(config, encoder)
    part = functools.partial(
        make_part, batch=batch, seed=seed, truncation=masks["truncation"],
        available=predictor.mask_tokens, per_pattern=objective["mask_token_per_pattern"],
    )  # fmt: skip
    clips = part(masks["patterns"], grid)
    images = part(masks["image_patterns"], (1, *grid[1:]), prefix=IMAGE)
    context = objective["context"].into(ContextLoss)
    optimizer = config["optimizer"]
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=steps)
        for name in ("lr", "decay", "momentum")
    }
    parts = [clips] * (share < 1) + [images] * (share > 0)
    update = optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=make_loss(
            networks, clips, images, context=context, image_share=share,
            teacher=teacher, learner=learner,
        ),
        prepare=make_prepare(parts, context, config["colour"].into(Jitter)),
        dtype=encoder.dtype,
        accumulate=config["accumulate"],
        seed=seed,
        truth=truth,
        averages=averages,
        **schedules,
    )  # fmt: skip

    def step(state, batch):
        ramp = jnp.full(len(batch["context"]), context.ramp(state.step, steps))
        return update(state, {**batch, "ramp": ramp})

    both = BothMasks(clips.masker, images.masker)
    read = functools.partial(make_train_source, masker=both, seed=seed, data=data)

    def source(split, shard, folder=None):
        if split == "train":
            check()
        return read(split, shard, folder, batch=batch)

    def example():
        check()
        return make_example(VideoWithMasks(both), data=data)()

    frozen = make_frozen(encoder, init, seed=seed, data=data)
    exports = make_exports(encoder, predictor, use=clips.use, config=config.to_dict())
    return Method(
        init=init,
        step=step,
        source=source,
        evals=standard.make_evals(
            encoder, predictor, clips.masker, init, read, use=clips.use, config=config,
            frozen=frozen, health=health,
        ),
        exports=exports | {"hf": refuse_hf},
        batch=batch,
        unit="clips",
        frozen_fields=("step", "params", "target"),
        parts=readers.PARTS,
        readers=readers.make_readers(encoder, predictor),
        frozen=frozen,
        costs=flops.make_dense_costs(
            encoder, predictor,
            [(p.masker, encoder.patch_of(1) if p.prefix else encoder.patch) for p in parts],
            accumulate=config["accumulate"], teacher=teacher, learner=learner,
        ),
        tools=Tools(
            benches=make_benches(seed=seed, data=data),
            draw=functools.partial(mask_picture, masker=clips.masker),
            example=example,
        ),
    )  # fmt: skip


def make_part(
    patterns: Section,
    grid,
    prefix="",
    *,
    batch,
    seed,
    truncation,
    available,
    per_pattern,
) -> Part:
    """A Part from its mask patterns; available: mask tokens of the predictor."""
    masker = Masker(make_patterns(patterns), grid, batch, seed, truncation)
    use = mask_tokens_of(len(patterns), per_pattern=per_pattern, available=available)
    return Part(masker, use, prefix)


def make_health(encoder, predictor, masker, *, mask_tokens, batch):
    """`jepa.evals.health.make_panel` over the levels that the predictor predicts, of clips."""
    networks, part = (encoder, predictor), Part(masker, mask_tokens)

    def found(params, target, batch):
        check_trainable(encoder, predictor)
        patches = standardize_clips(patchify(batch["video"], encoder.patch), None)
        masks = [part.masks(batch)]
        return compare(networks, [part], params, target, [patches], masks)[0]

    return health.make_panel(found, masker, width=encoder.width, batch=batch)


def refuse_hf(state, folder, origin) -> float:
    raise ValueError(
        "hf has no layout for V-JEPA 2.1: transformers' vjepa2 has no norm per level, no "
        "vectors of modalities and other rotary positions, and would compute other "
        "features; use stablehlo or safetensors"
    )
