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
from jepa.nets.dense_model import Asked, DenseEncoder, DensePredictor, Seen
from jepa.nets.model import patchify, together
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


def compare(networks, parts, params, target, patches, masks, *, teacher=None):
    """[(truth of all tokens, predictions at hidden, at visible ones)] of each part.

    Each is [B, n, levels D]. The truth is the last levels of the teacher, as many as are
    predicted.

    Args:
      networks: (DenseEncoder, DensePredictor) that `check_trainable` takes.
      parts: Parts, which pass every network together. target: weights of `teacher`, a
        DenseEncoder D wide; by default the encoder.
      patches: of each part, standardized, [B, N, p], all of them. masks: MASKS of these.
    """
    levels = levels_of(teacher or networks[0], target, patches, parts)
    guesses = predictions(networks, parts, params, patches, masks)
    return [
        (last_levels(truth, networks[1]), *guess)
        for truth, guess in zip(levels, guesses, strict=True)
    ]


def levels_of(teacher: DenseEncoder, target, patches, parts) -> list[jax.Array]:
    """Levels of all tokens, each normalized without scale or shift: [B, N, levels, D].

    Of each part. No gradient passes. target: weights.
    """
    given = zip(patches, parts, strict=True)
    inputs = [Seen(x, part.masker.grid) for x, part in given]
    found = together(teacher, target, inputs, hierarchy=True)
    shape = teacher.levels, teacher.width
    levels = [x.reshape(*x.shape[:2], *shape) for x in found]
    return [jax.lax.stop_gradient(normalize(x, eps=1e-5)) for x in levels]


def last_levels(levels, predictor: DensePredictor):
    """Those of [B, N, levels, D] that the predictor predicts, side by side."""
    return levels[:, :, -predictor.levels :].reshape(*levels.shape[:2], -1)


def predictions(networks, parts, params, patches, masks):
    """Predicted levels (at hidden tokens, at visible ones) of each part, as of `compare`."""
    encoder, predictor = networks
    given = list(zip(parts, patches, masks, strict=True))
    features = together(
        encoder,
        params["encoder"],
        [
            Seen(
                take(x, mask["context"]),
                part.masker.grid,
                mask["context"],
                mask["context_valid"],
                part.masker.sizes("context"),
            )
            for part, x, mask in given
        ],
        hierarchy=True,
    )
    asked = [
        Asked(
            seen[..., -predictor.levels * encoder.width :],
            mask["context"],
            mask["target"],
            part.masker.grid,
            part.use,
            part.prefix == IMAGE,
            part.masker.sizes("context"),
            part.masker.sizes("target"),
            mask["context_valid"],
            mask["target_valid"],
        )
        for seen, (part, _, mask) in zip(features, given, strict=True)
    ]
    return together(predictor, params["predictor"], asked)


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

    terms = [(clips, 1 - image_share, context.weight)]
    terms += [(images, image_share, context.image_weight)]
    terms = [term for term in terms if term[1] > 0]
    parts = [part for part, *_ in terms]

    def patches_of(part, batch, video):
        video = video[:, :1] if part.prefix == IMAGE else video
        patches = patchify(video, encoder.patch_of(video.shape[1]))
        return standardize_clips(patches, batch.get("colour"))

    def errors(networks, params, levels, batch, patches):
        """(weighted sum of all terms, the terms by name) of one pair of networks."""
        masks = [part.masks(batch) for part in parts]
        guesses = predictions(networks, parts, params, patches, masks)
        total, metrics = 0.0, {}
        for (part, share, weight), truth, mask, guess in zip(
            terms, levels, masks, guesses, strict=True
        ):
            truth, found = last_levels(truth, networks[1]), {}
            for name, one in zip(("target", "context"), guess, strict=True):
                weights = batch[f"{part.prefix}{name}_weight"]
                wanted, sizes = take(truth, mask[name]), part.masker.sizes(name)
                found[name], _ = masked.masked_l1(one, wanted, weights, sizes)
            ramped = weight * batch["ramp"].mean() * found["context"]
            total += share * (found["target"] + ramped)
            metrics[f"{part.prefix}loss_prediction"] = found["target"]
            metrics[f"{part.prefix}loss_context"] = found["context"]
        return total, metrics

    def loss_fn(params, target, batch, key):
        video = planar_to_rgb(batch["video"])
        patches = [patches_of(part, batch, video) for part in parts]
        levels = levels_of(teacher, target, patches, parts)
        total, metrics = errors(networks, params, levels, batch, patches)
        if learner:
            own = {"encoder": params[LEARNER[0]], "predictor": params[LEARNER[1]]}
            more, found = errors(learner, own, levels, batch, patches)
            total += more
            metrics |= {f"{LEARNER[0]}_{name}": x for name, x in found.items()}
        metrics["context_ramp"] = batch["ramp"].mean()
        if clips in parts:
            metrics |= masked.mask_ratios(batch, clips.masker)
        return total, (metrics | {"loss": total}, {})

    return loss_fn
