"""Presets: every one can be built, with the sizes and rates of its paper."""

import copy
import functools
import math

import jax
import numpy as np
import pytest

from configs.jepa import WORDS, get_config
from core.config import load_method, resolve_auto
from core.parallel.batches import to_device
from core.parallel.layouts import unbox
from core.parallel.mesh import make_mesh
from core.program import build_program
from core.section import Section
from jepa import pretrain

PRESETS = [name.strip() for name in WORDS.split(",")]
DENSE = [name for name in PRESETS if name.startswith(("v2_1_", "distill_"))]
OTHERS = [name for name in PRESETS if "levjepa" in name or "image" in name]
OTHERS += [name for name in PRESETS if name.startswith("ijepa")]  # without block masks
SMALL = ("tiny", "tiny_textured", "tiny_dense", "tiny_distill", "atari", "rooms", "arm")
MASKED = [name for name in PRESETS if name not in (*SMALL, *DENSE, *OTHERS)]
# Millions of parameters of the released encoders, and of predictors with ten tokens. Of G
# there is the encoder of V-JEPA 2.1 alone, 1845.2; it has an embedding of images besides.
ENCODERS = {"l": 303.9, "h": 631.6, "g": 1012.2, "G": 1845.2 - 768 * 1664 / 1e6}
PREDICTORS = {"l": 22.1, "h": 22.3, "g": 22.4, "G": 22.6}


@functools.cache
def made(preset):
    """(config, method, shapes of the state); nothing is computed."""
    config = get_config(preset)
    made = load_method(config)
    shapes = unbox(jax.eval_shape(made.init, jax.random.key(0)))
    return config, made, shapes


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def test_a_method_changes_nothing_in_its_config():
    fields = resolve_auto(get_config("tiny").to_dict(), "cpu")
    before = copy.deepcopy(fields)
    assert pretrain.make(Section(fields)).batch == fields["batch"]
    assert fields == before


def test_the_list_of_presets_is_whole():
    assert len(PRESETS) == len(set(PRESETS)) == 32
    with pytest.raises(
        ValueError, match="no preset 'vitl'; use one of tiny, atari, rooms, arm"
    ):
        get_config("vitl")
    assert get_config() == get_config("tiny")


@pytest.mark.parametrize("preset", PRESETS)
def test_state_is_whole(preset):
    config, method, shapes = made(preset)
    same = jax.tree.map(
        lambda a, b: a.shape == b.shape, shapes.target, shapes.params["encoder"]
    )
    assert all(jax.tree.leaves(same))
    assert count(shapes.opt.mu) == count(shapes.opt.nu) == count(shapes.params)
    assert {x.dtype for x in jax.tree.leaves(shapes.params)} == {np.dtype(np.float32)}
    assert set(config.eval_steps) == set(method.evals)
    assert method.batch == config.batch and method.costs.flops > 0


@pytest.mark.parametrize("preset", MASKED)
def test_parameters_are_as_many_as_published(preset):
    config, _, shapes = made(preset)
    version, size = preset[:2], preset[3]
    encoder, predictor = (count(shapes.params[k]) for k in ("encoder", "predictor"))
    assert round(encoder / 1e6, 1) == round(ENCODERS[size], 1)
    tokens = shapes.params["predictor"]["mask_tokens"].shape
    assert tokens == ({"v1": 2, "v2": 10}[version], 384)
    published = PREDICTORS[size]
    if version == "v1":
        predictor += 8 * 384  # beside the ten tokens of V-JEPA 2
        assert abs(predictor / 1e6 - 22) < 0.5
    assert round(predictor / 1e6, 1) == published


# Millions of the public checkpoints of V-JEPA 2.1. The predictors of the distilled B and L
# have 12 blocks and one level, as wide as their teacher G.
PUBLIC = {
    "v2_1_b": (86.8, 22.9), "v2_1_l": (304.7, 23.0), "v2_1_g": (1013.3, 55.4),
    "v2_1_G": (1845.2, 59.4), "distill_b": (86.8, 22.9), "distill_l": (304.7, 23.0),
}  # fmt: skip
PUBLIC |= {f"v2_1_{size}384_cooldown": PUBLIC[f"v2_1_{size}"] for size in "gG"}


@pytest.mark.parametrize("preset", DENSE)
def test_dense_presets_are_the_public_checkpoints(preset):
    config, _, shapes = made(preset)
    counts = [count(shapes.params[k]) / 1e6 for k in ("encoder", "predictor")]
    assert tuple(round(n, 1) for n in counts) == PUBLIC[preset]
    if preset.startswith("distill"):
        assert round(count(shapes.teacher) / 1e6, 1) == PUBLIC["v2_1_G"][0]
    optimizer, context = config.optimizer, config.objective.context
    found = (config.data.frames, config.data.size, config.batch, config.steps)
    last = preset.endswith("384_cooldown")
    assert found == ((64, 384, 128, 12_000) if last else (16, 256, 128, 135_000))
    assert rate(optimizer.lr.to_dict()) == (COOL if last else V2)[0]
    assert ends(optimizer.decay.to_dict()) == (0.04, 0.04)
    assert ends(optimizer.momentum.to_dict()) == (0.99925, 0.99925)
    assert (context.weight, context.image_weight) == (0.5, 0.7)
    assert context.distance == (not last)
    found = context.start * config.steps, context.full * config.steps
    np.testing.assert_allclose(found, (0, 0) if last else (15_000, 30_000))
    (image,) = config.masks.image_patterns.to_dict().values()
    assert (image["blocks"], image["spatial_scale"]) == (10, (0.15, 0.15))


# Frames, crop, clips, steps, schedule of the rate (start, peak, final, warm-up), weight
# decay (start, end), momentum (start, end): the published table of recipes.
V1 = ((2e-4, 6.25e-4, 1e-6, 12_000), (0.04, 0.4), (0.998, 1.0))
V2 = ((1e-4, 5.25e-4, 5.25e-4, 12_000), (0.04, 0.04), (0.99925, 0.99925))
COOL = ((5.25e-4, 5.25e-4, 1e-6, 0), (0.04, 0.04), (0.99925, 0.99925))
RECIPES = {
    "v1_l": (16, 224, 3072, 90_000, *V1),
    "v1_h": (16, 224, 3072, 90_000, *V1),
    "v1_h384": (16, 384, 2400, 90_000, *V1),
    "v2_l": (16, 256, 3072, 90_000, *V2),
    "v2_h": (16, 256, 3072, 90_000, *V2),
    "v2_g": (16, 256, 3072, 240_000, *V2),
    "v2_G": (16, 256, 3072, 240_000, *V2),
    "v2_l_cooldown": (64, 256, 3072, 12_000, *COOL),
    "v2_h_cooldown": (64, 256, 3072, 12_000, *COOL),
    "v2_g_cooldown": (64, 256, 3072, 12_000, *COOL),
    "v2_g384_cooldown": (64, 384, 3072, 12_000, *COOL),
}


def ends(schedule):
    """(start, end) of a schedule of weight decay or momentum as configured."""
    if schedule["kind"] == "constant":
        return schedule["value"], schedule["value"]
    return schedule["start"], schedule["final"]


def rate(lr):
    """(start, peak, final, warm-up steps) of a learning rate as configured."""
    if lr["kind"] == "linear":
        return lr["start"], lr["start"], lr["final"], 0
    return lr["start"], lr["peak"], lr.get("final", lr["peak"]), lr["warmup_steps"]


@pytest.mark.parametrize("preset", RECIPES)
def test_recipes_are_the_published_ones(preset):
    config = get_config(preset).to_dict()
    optimizer, data = config["optimizer"], config["data"]
    assert RECIPES[preset] == (
        data["frames"],
        data["size"],
        config["batch"],
        config["steps"],
        rate(optimizer["lr"]),
        ends(optimizer["decay"]),
        ends(optimizer["momentum"]),
    )
    first = preset.startswith("v1")
    assert data["fps"] == (7.5 if first else 4)
    assert (data["scale"], data["aspect"], data["flip"]) == (
        (0.3, 1),
        (0.75, 1.35),
        True,
    )
    assert (optimizer["betas"], optimizer["eps"]) == ((0.9, 0.999), 1e-8)
    # The released trainer clips in epochs after number 40 of those that count from 0.
    clipping = optimizer["clip_norm"], optimizer["clip_steps"]
    assert clipping == ((10, 41 * 300) if first else (0, 0))
    assert config["encoder"]["positions"] == ("sincos" if first else "tiled")
    assert config["encoder"]["rescale"] == (not first)
    assert config["encoder"]["patch"] == (2, 16, 16)
    stretches = [optimizer[k].get("stretch") for k in ("lr", "decay", "momentum")]
    last = 1.25 if "cooldown" in preset else None
    assert stretches == ([1.25] * 3 if first else [last, None, None])


@pytest.mark.parametrize("preset", [x for x in PRESETS if x not in OTHERS])
def test_masks_fit_the_grid(preset):
    config, *_ = made(preset)
    data, patch = config.data, config.encoder.patch
    h, w = data.size // patch[1], data.size // patch[2]
    masks = config.masks.to_dict()
    images = {f"image {k}": v for k, v in masks.get("image_patterns", {}).items()}
    for name, pattern in (masks["patterns"] | images).items():
        assert min(pattern["context"], pattern["target"]) > 0
        assert pattern["context"] + pattern["target"] <= h * w, name
    if not preset.startswith("tiny") and preset not in ("atari", "rooms", "arm"):
        assert masks["truncation"] == "prefix"
        short, long = masks["patterns"]["short"], masks["patterns"]["long"]
        assert (short["blocks"], short["spatial_scale"]) == (8, (0.15, 0.15))
        assert (long["blocks"], long["spatial_scale"]) == (2, (0.7, 0.7))


def test_tiny_trains_a_step():
    config = get_config("tiny")
    config.batch = 8
    config.data.workers = 0
    made_ = load_method(config)
    mesh = make_mesh(**config.mesh)
    plan = build_program(made_, mesh, seed=config.seed)
    source = made_.source("train", (0, 1))
    batch = to_device(mesh, source.next(), config.batch)
    source.close()
    assert batch["video"].shape == (8, config.data.frames, 64, 64, 3)
    with jax.set_mesh(mesh):
        state = plan.create()
        before = jax.tree.map(np.array, state.params)
        state, metrics = plan.step(state, batch)
    assert int(state.step) == 1 and int(metrics["bad_steps"]) == 0
    assert 0.3 < float(metrics["loss"]) < 1.5
    assert 0 < float(metrics["grad_norm"]) < 100
    moved = jax.tree.map(
        lambda a, b: (a != b).any(), before, jax.device_get(state.params)
    )
    still = [k for k, v in jax.tree_util.tree_leaves_with_path(moved) if not v]
    assert not still
