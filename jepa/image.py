"""I-JEPA as a Method: a context block of an image predicts the features of four others.

Source: arXiv 2301.08243. State and update are those of jepa/pretrain.py; masks, loss and
data are its own. Evaluations read clips frame by frame.
"""

import functools

import jax
import jax.numpy as jnp

from core import optim
from core.data.decoding.planar_rgb import planar_to_rgb
from core.method import Method, Tools
from core.nn.layers import normalize
from core.nn.token_order import take
from core.section import Section
from jepa.evals import health
from jepa.evals.pictures import make_pictures, mask_picture
from jepa.evals.standard import make_validation_batch, make_world_evals
from jepa.inputs.clips import (
    VideoWithMasks,
    make_benches,
    make_example,
    make_image_source,
)
from jepa.inputs.color_jitter import Jitter, standardize_clips
from jepa.inputs.image_masks import ImageMasker
from jepa.losses import masked
from jepa.nets.encode import make_frozen
from jepa.nets.image_model import make_image_networks
from jepa.nets.model import patchify
from jepa.nets.networks import token_grid
from jepa.perf import flops
from jepa.pretrain import make_init, make_prepare, make_step
from jepa.weights import model_card, readers
from jepa.weights.exports import make_exports


def compare(encoder, predictor, masker, params, target, patches, batch):
    """(normalized features of all tokens, prediction at tokens of `batch[name]`).

    [B, N, D], and a function "context" or "target" -> [B, sum of its budgets, D].

    Args:
      patches: standardized, [B, N, p], all of them. batch: masks of these rows.
    """
    grid, blocks = masker.grid, masker.blocks
    # The context is the same for all blocks: encoded once.
    seen = {
        name: batch[name][:, : masker.context] for name in ("context", "context_valid")
    }
    features = encoder.apply(
        {"params": params["encoder"]},
        take(patches, seen["context"]),
        seen["context"],
        grid=grid,
        valid=seen["context_valid"],
    )
    truth = normalize(encoder.apply({"params": target}, patches, grid=grid), eps=1e-5)

    def predict(name):
        return predictor.apply(
            {"params": params["predictor"]},
            jnp.tile(features, (1, blocks, 1)),
            batch["context"],
            batch[name],
            grid=grid,
            use=(0,) * blocks,
            context_sizes=masker.sizes("context"),
            target_sizes=masker.sizes(name),
            context_valid=batch["context_valid"],
            target_valid=batch[f"{name}_valid"],
        )

    return jax.lax.stop_gradient(truth), predict


def make_loss(encoder, predictor, masker: ImageMasker):
    """Loss of (params, target, prepared batch, key) -> (scalar, (metrics, {})).

    Smooth L1 (beta 1) between predictions and normalized features of the EMA target at the
    tokens of the target blocks.
    """

    def loss_fn(params, target, batch, key):
        patches = patchify(planar_to_rgb(batch["video"]), encoder.patch)
        patches = standardize_clips(patches, batch.get("colour"))
        truth, predict = compare(
            encoder, predictor, masker, params, target, patches, batch
        )
        total, _ = masked.masked_mean(
            predict("target"), take(truth, batch["target"]), batch["target_weight"],
            masker.sizes("target"), error=masked.smooth_l1,
        )  # fmt: skip
        ratios = masked.mask_ratios(batch, masker)
        metrics = {name: ratios[name] for name in ("masked_ratio0", "target_ratio0")}
        return total, (metrics | {"loss": total, "loss_prediction": total}, {})

    return loss_fn


def make_health(encoder, predictor, masker: ImageMasker, *, batch):
    """`jepa.evals.health.make_panel` of an encoder of images."""

    def found(params, target, batch):
        patches = standardize_clips(patchify(batch["video"], encoder.patch), None)
        truth, predict = compare(
            encoder, predictor, masker, params, target, patches, batch
        )
        return truth, predict("target"), predict("context")

    return health.make_panel(found, masker, width=encoder.width, batch=batch)


def make(config: Section) -> Method:
    """The Method of a config of I-JEPA.

    Raises ValueError that names the field for values that do not fit together.
    """
    data, seed, batch = config["data"], config["seed"], config["batch"]
    encoder, predictor = make_image_networks(
        dtype=config["dtype"], encoder=config["encoder"], predictor=config["predictor"]
    )
    clip_grid = token_grid(encoder.patch, frames=data["frames"], size=data["size"])
    grid = (1, *clip_grid[1:])
    masker = config["masks"].into(ImageMasker, grid=grid, batch=batch, seed=seed)
    networks = {"encoder": encoder, "predictor": predictor, "masker": masker}
    init = make_init(encoder, predictor, grid=grid)
    optimizer = config["optimizer"]
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=config["steps"])
        for name in ("lr", "decay", "momentum")
    }
    step = optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=make_loss(**networks),
        prepare=make_prepare(masker, config["colour"].into(Jitter)),
        dtype=encoder.dtype,
        accumulate=config["accumulate"],
        seed=seed,
        **schedules,
    )
    frozen = make_frozen(encoder, init, seed=seed, data=data)
    read = functools.partial(make_image_source, masker=masker, seed=seed, data=data)
    held = make_validation_batch(read, size=config["held_batch"], data=data)
    exports = make_exports(
        encoder, predictor, use=(0,), frames=1, config=config.to_dict(),
        words={"title": model_card.IMAGE_TITLE, "what": model_card.IMAGE_WHAT},
    )  # fmt: skip
    return Method(
        init=init,
        step=step,
        source=functools.partial(read, batch=batch),
        evals=make_world_evals(
            encoder, clip_grid, init, frozen=frozen, config=config,
            clips=max(1, batch // data["frames"]),  # as many frames as images
        )
        | {
            "health": make_health(**networks, batch=held),
            "pictures": make_pictures(encoder, masker, batch=held),
        },
        exports={name: x for name, x in exports.items() if name != "hf"},
        batch=batch,
        unit="images",
        frozen_fields=("step", "params", "target"),
        parts=readers.PARTS,
        readers={"export folder": readers.read_export},
        frozen=frozen,
        costs=flops.make_costs(
            encoder, predictor, masker, accumulate=config["accumulate"],
            encoded=(masker.context,),
        ),
        tools=Tools(
            benches=make_benches(seed=seed, data=data),
            draw=functools.partial(mask_picture, masker=masker),
            example=make_example(VideoWithMasks(masker), data=data, frames=1),
        ),
    )  # fmt: skip
