"""V-JEPA 2.1 as a Method: context loss, deep supervision, images beside clips.

Source: arXiv 2603.14482. State and update are those of jepa/pretrain.py.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core import optim
from core.data.decoding.planar_rgb import planar_to_rgb
from core.method import Method, Tools
from core.nn.layers import normalize
from core.nn.token_order import take
from core.section import Section
from jepa import evals, flops, health, loss, readers
from jepa.color_jitter import NO_JITTER, Jitter, draw_factors, standardize_clips
from jepa.data import make_benches, make_train_source
from jepa.dense_model import DenseEncoder, DensePredictor
from jepa.encode import make_frozen
from jepa.exports import make_exports
from jepa.masks import Masker, make_patterns
from jepa.model import patchify
from jepa.networks import make_dense_networks, mask_tokens_of, token_grid
from jepa.pictures import mask_picture
from jepa.pretrain import JITTER_STREAM, State, make_step

MASKS = ("context", "context_valid", "target", "target_valid")
IMAGE = "image_"  # prefix of the masks of images in a batch


class ContextLoss(NamedTuple):
    """Weight of the loss at visible tokens, over a run.

    weight, image_weight: for clips and for images, after the ramp.
    start, full: shares of the run at which the ramp leaves 0 and ends. Full weight from the
      first step on can diverge in fine-tuning.
    distance: whether a token counts 1 / sqrt(distance to the nearest hidden one).
    """

    weight: float = 0.5
    image_weight: float = 0.5
    start: float = 1 / 9
    full: float = 2 / 9
    distance: bool = True

    def ramp(self, step, steps: int):
        """The share of the weight after `step` of `steps` updates, float32 []."""
        share = jnp.asarray(step, jnp.float32) / steps
        if self.full <= self.start:
            return (share >= self.start).astype(jnp.float32)
        return jnp.clip((share - self.start) / (self.full - self.start), 0, 1)


class BothMasks:
    """Adds the masks of a clip, and of the image that is its first frame, to a sample."""

    def __init__(self, clips: Masker, images: Masker):
        self.clips, self.images = clips, images

    def __call__(self, item: dict, position: int, rng) -> dict:
        item = self.clips(item, position, rng)
        masks = self.images({}, position, rng)
        return item | {f"{IMAGE}{name}": x for name, x in masks.items()}


class Part(NamedTuple):
    """Clips or images: their masker, mask tokens, and prefix of their masks in a batch."""

    masker: Masker
    use: tuple[int, ...]
    prefix: str = ""

    def masks(self, batch) -> dict:
        return {name: batch[self.prefix + name] for name in MASKS}


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


def compare(networks, part: Part, params, target, patches, masks):
    """(truth of all tokens, predictions at hidden, at visible ones): [B, n, levels D].

    The truth is the target's levels, each normalized without scale or shift; one level is
    the last one.

    Args:
      networks: (DenseEncoder, DensePredictor) that `check_trainable` takes.
      patches: standardized, [B, N, p], all of them. masks: MASKS of these rows.
    """
    encoder, predictor = networks
    grid, sizes = part.masker.grid, part.masker.sizes("context")
    image = part.prefix == IMAGE
    width = predictor.levels * encoder.width
    features = encoder.apply(
        {"params": params["encoder"]},
        take(patches, masks["context"]),
        masks["context"],
        grid=grid,
        valid=masks["context_valid"],
        segments=sizes,
        hierarchy=True,
    )
    truth = encoder.apply({"params": target}, patches, grid=grid, hierarchy=True)
    truth = truth[..., -width:].reshape(*truth.shape[:2], predictor.levels, -1)
    truth = normalize(truth, eps=1e-5).reshape(*truth.shape[:2], width)
    guess, visible = predictor.apply(
        {"params": params["predictor"]},
        features[..., -width:],
        masks["context"],
        masks["target"],
        grid=grid,
        use=part.use,
        image=image,
        context_sizes=sizes,
        target_sizes=part.masker.sizes("target"),
        context_valid=masks["context_valid"],
        target_valid=masks["target_valid"],
    )
    return jax.lax.stop_gradient(truth), guess, visible


def make_prepare(parts, context: ContextLoss, jitter: Jitter = NO_JITTER):
    """(batch, key) -> the batch with weights of tokens, and factors of color jitter.

    Adds, with the prefix of each Part, `target_weight` [B, M] and `context_weight` [B, C].
    """

    def prepare(batch, key):
        more = {}
        for part in parts:
            masks, masker = part.masks(batch), part.masker
            weights = {
                name: loss.token_weights(masks[f"{name}_valid"], masker.sizes(name))
                for name in ("context", "target")
            }
            if context.distance:
                weights["context"] *= nearness(masks, masker)
            more |= {f"{part.prefix}{k}_weight": w for k, w in weights.items()}
        key = jax.random.fold_in(key, JITTER_STREAM)
        factors = draw_factors(jitter, len(batch["context"]), key)
        more |= {} if factors is None else {"colour": factors}
        return {**batch, **more}

    return prepare


def nearness(masks, masker: Masker):
    """Distance weights of the visible tokens, float32 [B, C]."""
    known = masks["target"], masks["target_valid"], masker.grid
    weights = loss.distance_weights(*known, masker.sizes("target"))
    index = loss.per_pattern(masks["context"], masker.sizes("context"))
    rows = [
        jnp.take_along_axis(weights[:, i], tokens, 1) for i, tokens in enumerate(index)
    ]
    return jnp.concatenate(rows, 1)


def make_loss(
    networks, clips: Part, images: Part, *, context: ContextLoss, image_share: float
):
    """Loss of (params, target, prepared batch, key) -> (scalar, (metrics, {})).

    (1 - image_share) times the loss of clips plus image_share times that of images, each
    the mean absolute error at hidden tokens plus the ramped one at visible tokens, over all
    levels alike (arXiv 2603.14482). `ramp` [B] is in the batch. Images are the first
    frames of the clips; a share of 0 leaves them out, a share of 1 the clips.
    """
    encoder, _ = networks

    def one(part, params, target, batch, video, weight):
        patch = encoder.patch_of(video.shape[1])
        patches = standardize_clips(patchify(video, patch), batch.get("colour"))
        masks = part.masks(batch)
        found = compare(networks, part, params, target, patches, masks)
        terms = {}
        for name, guess in zip(("target", "context"), found[1:], strict=True):
            truth = take(found[0], masks[name])
            weights = batch[f"{part.prefix}{name}_weight"]
            sizes = part.masker.sizes(name)
            terms[name], _ = loss.masked_l1(guess, truth, weights, sizes)
        total = terms["target"] + weight * batch["ramp"].mean() * terms["context"]
        names = {"target": "loss_prediction", "context": "loss_context"}
        return total, {f"{part.prefix}{names[k]}": x for k, x in terms.items()}

    def loss_fn(params, target, batch, key):
        video = planar_to_rgb(batch["video"])
        total, metrics = 0.0, {"context_ramp": batch["ramp"].mean()}
        if image_share < 1:
            value, terms = one(clips, params, target, batch, video, context.weight)
            total, metrics = (1 - image_share) * value, metrics | terms
            metrics |= loss.mask_ratios(batch, clips.masker)
        if image_share > 0:
            value, terms = one(
                images, params, target, batch, video[:, :1], context.image_weight
            )
            total, metrics = total + image_share * value, metrics | terms
        return total, (metrics | {"loss": total}, {})

    return loss_fn


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
    data, masks, objective = config["data"], config["masks"], config["objective"]
    batch, seed, steps = config["batch"], config["seed"], config["steps"]
    networks = make_dense_networks(
        dtype=config["dtype"], encoder=config["encoder"], predictor=config["predictor"]
    )
    encoder, predictor = networks
    share = objective["image_share"]
    if not 0 <= share <= 1:
        raise ValueError(f"objective.image_share is {share}; use a number from 0 to 1")
    grid = token_grid(encoder.patch, frames=data["frames"], size=data["size"])
    part = functools.partial(
        make_part, batch=batch, seed=seed, truncation=masks["truncation"],
        available=predictor.mask_tokens, per_pattern=objective["mask_token_per_pattern"],
    )  # fmt: skip
    clips = part(masks["patterns"], grid)
    images = part(masks["image_patterns"], (1, *grid[1:]), prefix=IMAGE)
    context = objective["context"].into(ContextLoss)
    init = make_init(encoder, predictor, grid=grid)
    optimizer = config["optimizer"]
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=steps)
        for name in ("lr", "decay", "momentum")
    }
    parts = [clips] * (share < 1) + [images] * (share > 0)
    update = optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=make_loss(networks, clips, images, context=context, image_share=share),
        prepare=make_prepare(parts, context, config["colour"].into(Jitter)),
        dtype=encoder.dtype,
        accumulate=config["accumulate"],
        seed=seed,
        **schedules,
    )

    def step(state, batch):
        ramp = jnp.full(len(batch["context"]), context.ramp(state.step, steps))
        return update(state, {**batch, "ramp": ramp})

    both = BothMasks(clips.masker, images.masker)
    read = functools.partial(make_train_source, masker=both, seed=seed, data=data)

    def source(split, shard, folder=None):
        if split == "train":
            check_trainable(encoder, predictor)
        return read(split, shard, folder, batch=batch)

    exports = make_exports(encoder, predictor, use=clips.use, config=config.to_dict())
    return Method(
        init=init,
        step=step,
        source=source,
        evals=evals.make_evals(
            encoder, predictor, clips.masker, init, read, use=clips.use, config=config,
            health=make_health,
        ),
        exports=exports | {"hf": refuse_hf},
        batch=batch,
        unit="clips",
        frozen_fields=("step", "params", "target"),
        parts=readers.PARTS,
        readers=readers.make_readers(encoder, predictor),
        frozen=make_frozen(encoder, init, seed=seed, data=data),
        costs=flops.make_dense_costs(
            encoder, predictor,
            [(p.masker, encoder.patch_of(1) if p.prefix else encoder.patch) for p in parts],
            accumulate=config["accumulate"],
        ),
        tools=Tools(
            benches=make_benches(seed=seed, data=data),
            draw=functools.partial(mask_picture, masker=clips.masker),
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
    """`jepa.health.make_panel` over the levels that the predictor predicts, of clips."""
    networks, part = (encoder, predictor), Part(masker, mask_tokens)

    def found(params, target, batch):
        check_trainable(encoder, predictor)
        patches = standardize_clips(patchify(batch["video"], encoder.patch), None)
        return compare(networks, part, params, target, patches, part.masks(batch))

    return health.make_panel(found, masker, width=encoder.width, batch=batch)


def refuse_hf(state, folder, origin) -> float:
    raise ValueError(
        "hf has no layout for V-JEPA 2.1: transformers' vjepa2 has no norm per level, no "
        "vectors of modalities and other rotary positions, and would compute other "
        "features; use stablehlo or safetensors"
    )
