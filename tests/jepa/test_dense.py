"""The objective of V-JEPA 2.1 against plain numpy, its ramp and distances, refusals."""

import functools

import dense_files as files
import jax
import jax.numpy as jnp
import numpy as np
import plain_vjepa
import pytest

from configs.jepa import get_config
from core.config import load_method
from jepa.dense import check_trainable
from jepa.inputs.masks import Masker, Pattern
from jepa.losses import masked
from jepa.losses.dense import BothMasks, ContextLoss, Part, make_loss, make_prepare
from jepa.nets.dense_model import DenseEncoder, DensePredictor
from jepa.nets.model import MEAN, STD
from jepa.weights.meta_names import gather, table

GRID, B = (2, 3, 4), 2
SCAN = {"remat": "block"}  # compiled in less time
ENCODER = DenseEncoder(**files.ENCODER, **SCAN, heads=files.HEADS)
PREDICTOR = DensePredictor(**files.PREDICTOR, **SCAN, heads=files.PREDICTOR_HEADS)
PATTERNS = (Pattern(2, (0.3, 0.3), context=8, target=6), Pattern(1, (0.5, 0.5), 7, 7))
CLIPS = Part(Masker(PATTERNS, GRID, B, 0, "cells"), (0, 0))
IMAGES = Part(Masker((Pattern(2, (0.3, 0.3), 9, 6),), (1, 3, 4), B, 0), (0,), "image_")
CONTEXT = ContextLoss(weight=0.5, image_weight=0.7)
RAMP = 0.25


def test_distances_are_those_of_a_loop():
    rng, sizes, grid = np.random.default_rng(0), (5, 3), (3, 4, 5)
    N = np.prod(grid)
    target = rng.integers(0, N, (2, 8))
    valid = np.array([[1, 1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]], bool)
    found = masked.distance_weights(
        jnp.asarray(target), jnp.asarray(valid), grid, sizes
    )
    places = plain_vjepa.raster(grid)
    for b in range(2):
        for p, here in enumerate((slice(0, 5), slice(5, 8))):
            known = places[target[b, here][valid[b, here]]]
            away = np.linalg.norm(places[:, None] - known, axis=-1).min(1)
            wanted = np.where(away > 0, 1 / np.sqrt(np.maximum(away, 1)), 0)
            np.testing.assert_allclose(found[b, p], wanted, rtol=1e-6)


def test_weight_at_a_distance_of_four():
    one = jnp.zeros((1, 1), int), jnp.ones((1, 1), bool)
    weights = masked.distance_weights(*one, (1, 1, 6), (1,))
    np.testing.assert_allclose(
        weights[0, 0, 1:5], [1, 2**-0.5, 3**-0.5, 0.5], rtol=1e-6
    )


def test_ramp_is_the_published_one_at_the_published_length():
    ramp = functools.partial(ContextLoss().ramp, steps=135_000)
    steps = (0, 15_000, 22_500, 30_000, 135_000)
    np.testing.assert_allclose([ramp(s) for s in steps], [0, 0, 0.5, 1, 1], atol=1e-6)
    at_once = ContextLoss(start=0.0, full=0.0).ramp
    assert float(at_once(0, 12_000)) == float(at_once(7_000, 12_000)) == 1


@pytest.fixture(scope="module")
def drawn():
    """(tensors by Meta's names, params and target, a batch with padded budgets)."""
    shapes = {
        "encoder": files.encoder_shapes(**files.ENCODER),
        "target": files.encoder_shapes(**files.ENCODER),
        "predictor": files.predictor_shapes(**files.PREDICTOR),
    }
    tensors = {n: files.random(s, i) for i, (n, s) in enumerate(shapes.items())}
    params = {
        name: gather(
            table(PREDICTOR if name == "predictor" else ENCODER),
            lambda row, name=name: tensors[name][row.theirs],
        )
        for name in tensors
    }
    rng, masks = np.random.default_rng(0), BothMasks(CLIPS.masker, IMAGES.masker)
    video = rng.integers(0, 256, (B, 4, 48, 64, 3), np.uint8)
    items = [masks({"video": v}, i, rng) for i, v in enumerate(video)]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    return tensors, params, batch


def pieces(batch, part):
    """(row, context, target) of every clip and pattern, without padding."""
    for b in range(B):
        start = {"context": 0, "target": 0}
        for p in range(len(part.masker.patterns)):
            found = []
            for name in start:
                here = slice(start[name], start[name] + part.masker.sizes(name)[p])
                start[name] = here.stop
                valid = batch[f"{part.prefix}{name}_valid"][b, here]
                found.append(batch[part.prefix + name][b, here][valid])
            yield b, p, *found


def errors(tensors, batch, part):
    """Mean absolute errors at hidden and at visible tokens, as the paper defines them."""
    kind, frames = ("img", 1) if part.prefix else ("video", 4)
    grid, D = part.masker.grid, ENCODER.width
    sums = np.zeros((2, len(part.masker.patterns)))
    counts = np.zeros_like(sums)
    levels = {"heads": files.HEADS, "levels": (1, 3)}
    for b, p, context, target in pieces(batch, part):
        clip = (batch["video"][b, :frames] / 255 - MEAN) / STD
        truth = plain_vjepa.encoder21(tensors["target"], clip, **levels)
        truth = [plain_vjepa.norm(None, None, x, 1e-5) for x in np.split(truth, 2, 1)]
        truth = np.concatenate(truth, 1)
        seen = plain_vjepa.encoder21(tensors["encoder"], clip, keep=context, **levels)
        found = plain_vjepa.predictor21(
            tensors["predictor"], seen, context, target, grid,
            heads=files.PREDICTOR_HEADS, kind=kind, token=0,
        )  # fmt: skip
        assert truth.shape[1] == 2 * D
        places = plain_vjepa.raster(grid)
        gap = places[context][:, None] - places[target]
        near = 1 / np.sqrt(np.linalg.norm(gap, axis=-1).min(1))
        for i, (index, weight) in enumerate(((target, 1), (context, near))):
            error = np.abs(found[i] - truth[index]).mean(1) * weight
            sums[i, p] += error.sum()
            counts[i, p] += len(index)
    return (sums / counts).mean(1)


def loss_of(drawn, share):
    """(loss, metrics) of the batch, as the step computes them."""
    _, params, batch = drawn
    parts = [CLIPS] * (share < 1) + [IMAGES] * (share > 0)
    batch = make_prepare(parts, CONTEXT)(batch, jax.random.key(0))
    batch["ramp"] = jnp.full(B, RAMP)
    networks = ENCODER, PREDICTOR
    loss_fn = make_loss(networks, CLIPS, IMAGES, context=CONTEXT, image_share=share)
    weights = {name: params[name] for name in ("encoder", "predictor")}
    total, (metrics, _) = jax.jit(loss_fn)(weights, params["target"], batch, None)
    return total, metrics


def test_loss_is_that_of_plain_networks(drawn):
    share = 0.25
    total, metrics = loss_of(drawn, share)
    clips, images = (errors(drawn[0], drawn[2], part) for part in (CLIPS, IMAGES))
    found = [metrics[name] for name in ("loss_prediction", "loss_context")]
    np.testing.assert_allclose(found, clips, rtol=1e-4)
    found = [metrics[f"image_{name}"] for name in ("loss_prediction", "loss_context")]
    np.testing.assert_allclose(found, images, rtol=1e-4)
    wanted = (1 - share) * (clips[0] + 0.5 * RAMP * clips[1])
    wanted += share * (images[0] + 0.7 * RAMP * images[1])
    np.testing.assert_allclose(total, wanted, rtol=1e-4)


@pytest.mark.parametrize("share", [0, 1])
def test_a_part_without_a_share_is_left_out(share, drawn):
    names = jax.eval_shape(lambda: loss_of(drawn, share))[1]
    assert ("image_loss_context" in names) == (share == 1)
    assert ("loss_context" in names) == (share == 0)


def test_only_networks_of_one_width_are_trained():
    check_trainable(ENCODER, PREDICTOR)
    distilled = DensePredictor(**files.DISTILLED, heads=2)
    with pytest.raises(ValueError, match="predictor.out is 44, the width of a teacher"):
        check_trainable(ENCODER, distilled)
    with pytest.raises(
        ValueError, match="predictor.levels is 3, but encoder.levels is"
    ):
        check_trainable(ENCODER, PREDICTOR.clone(levels=3))
    with pytest.raises(ValueError, match="use --config.predictor.out=0"):
        load_method(get_config("v2_1_b")).source("train", (0, 1))


def test_a_share_beyond_one_is_refused():
    config = get_config("tiny_dense")
    config.objective.image_share = 1.5
    with pytest.raises(ValueError, match="objective.image_share is 1.5; use a number"):
        load_method(config)
