"""Loss of V-JEPA 2.1: levels of hidden and of visible tokens, of clips and of images.

Source: arXiv 2603.14482.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.data.decoding.planar_rgb import planar_to_rgb
from core.nn.layers import normalize
from core.nn.token_order import take
from jepa.inputs.color_jitter import NO_JITTER, Jitter, draw_factors, standardize_clips
from jepa.inputs.masks import Masker
from jepa.losses import masked
from jepa.nets.dense_model import DenseEncoder, DensePredictor
from jepa.nets.model import patchify
from jepa.pretrain import JITTER_STREAM

MASKS = ("context", "context_valid", "target", "target_valid")
LEARNER = ("teacher", "teacher_predictor")  # in the params of a distillation
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


def compare(networks, part: Part, params, target, patches, masks, *, teacher=None):
    """(truth of all tokens, predictions at hidden, at visible ones): [B, n, levels D].

    The truth is the last levels of the teacher, as many as are predicted.

    Args:
      networks: (DenseEncoder, DensePredictor) that `check_trainable` takes.
      target: weights of `teacher`, a DenseEncoder D wide; by default the encoder.
      patches: standardized, [B, N, p], all of them. masks: MASKS of these rows.
    """
    truth = levels_of(teacher or networks[0], target, patches, part)
    return last_levels(truth, networks[1]), *predictions(
        networks, part, params, patches, masks
    )


def levels_of(teacher: DenseEncoder, target, patches, part: Part):
    """Levels of all tokens, each normalized without scale or shift: [B, N, levels, D].

    No gradient passes. target: weights.
    """
    found = teacher.apply(
        {"params": target}, patches, grid=part.masker.grid, hierarchy=True
    )
    found = found.reshape(*found.shape[:2], teacher.levels, teacher.width)
    return jax.lax.stop_gradient(normalize(found, eps=1e-5))


def last_levels(levels, predictor: DensePredictor):
    """Those of [B, N, levels, D] that the predictor predicts, side by side."""
    return levels[:, :, -predictor.levels :].reshape(*levels.shape[:2], -1)


def predictions(networks, part: Part, params, patches, masks):
    """Predicted levels (at hidden tokens, at visible ones), as of `compare`."""
    encoder, predictor = networks
    grid, sizes = part.masker.grid, part.masker.sizes("context")
    features = encoder.apply(
        {"params": params["encoder"]},
        take(patches, masks["context"]),
        masks["context"],
        grid=grid,
        valid=masks["context_valid"],
        segments=sizes,
        hierarchy=True,
    )
    return predictor.apply(
        {"params": params["predictor"]},
        features[..., -predictor.levels * encoder.width :],
        masks["context"],
        masks["target"],
        grid=grid,
        use=part.use,
        image=part.prefix == IMAGE,
        context_sizes=sizes,
        target_sizes=part.masker.sizes("target"),
        context_valid=masks["context_valid"],
        target_valid=masks["target_valid"],
    )


def make_prepare(parts, context: ContextLoss, jitter: Jitter = NO_JITTER):
    """(batch, key) -> the batch with weights of tokens, and factors of color jitter.

    Adds, with the prefix of each Part, `target_weight` [B, M] and `context_weight` [B, C].
    """

    def prepare(batch, key):
        more = {}
        for part in parts:
            masks, masker = part.masks(batch), part.masker
            weights = {
                name: masked.token_weights(masks[f"{name}_valid"], masker.sizes(name))
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
    weights = masked.distance_weights(*known, masker.sizes("target"))
    index = masked.per_pattern(masks["context"], masker.sizes("context"))
    rows = [
        jnp.take_along_axis(weights[:, i], tokens, 1) for i, tokens in enumerate(index)
    ]
    return jnp.concatenate(rows, 1)


def make_loss(
    networks,
    clips: Part,
    images: Part,
    *,
    context: ContextLoss,
    image_share: float,
    teacher=None,
    learner=None,
):
    """Loss of (params, target, prepared batch, key) -> (scalar, (metrics, {})).

    (1 - image_share) times the loss of clips plus image_share times that of images, each
    the mean absolute error at hidden tokens plus the ramped one at visible tokens, over all
    levels alike (arXiv 2603.14482). `ramp` [B] is in the batch. Images are the first
    frames of the clips; a share of 0 leaves them out, a share of 1 the clips.

    teacher: as of `compare`. learner: a teacher's own networks where it learns beside the
    student, the loss of which is added; its weights are those of LEARNER in params.
    """
    encoder, _ = networks
    teacher = teacher or encoder

    def one(part, params, target, batch, video, weight):
        patch = encoder.patch_of(video.shape[1])
        patches = standardize_clips(patchify(video, patch), batch.get("colour"))
        levels = levels_of(teacher, target, patches, part)
        total, metrics = errors(part, networks, params, levels, batch, patches, weight)
        if learner:
            own = {"encoder": params[LEARNER[0]], "predictor": params[LEARNER[1]]}
            more, found = errors(part, learner, own, levels, batch, patches, weight)
            total += more
            metrics |= {f"{LEARNER[0]}_{name}": x for name, x in found.items()}
        return total, metrics

    def errors(part, networks, params, levels, batch, patches, weight):
        masks, terms = part.masks(batch), {}
        wanted = last_levels(levels, networks[1])
        found = predictions(networks, part, params, patches, masks)
        for name, guess in zip(("target", "context"), found, strict=True):
            truth = take(wanted, masks[name])
            weights = batch[f"{part.prefix}{name}_weight"]
            sizes = part.masker.sizes(name)
            terms[name], _ = masked.masked_l1(guess, truth, weights, sizes)
        total = terms["target"] + weight * batch["ramp"].mean() * terms["context"]
        names = {"target": "loss_prediction", "context": "loss_context"}
        return total, {f"{part.prefix}{names[k]}": x for k, x in terms.items()}

    def loss_fn(params, target, batch, key):
        video = planar_to_rgb(batch["video"])
        total, metrics = 0.0, {"context_ramp": batch["ramp"].mean()}
        if image_share < 1:
            value, terms = one(clips, params, target, batch, video, context.weight)
            total, metrics = (1 - image_share) * value, metrics | terms
            metrics |= masked.mask_ratios(batch, clips.masker)
        if image_share > 0:
            value, terms = one(
                images, params, target, batch, video[:, :1], context.image_weight
            )
            total, metrics = total + image_share * value, metrics | terms
        return total, (metrics | {"loss": total}, {})

    return loss_fn
