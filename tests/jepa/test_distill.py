"""Distillation: loss against plain numpy, a teacher that rests, any mesh, exact resume."""

import functools

import dense_files as files
import jax
import jax.numpy as jnp
import numpy as np
import plain_vjepa
import pytest
from small import changed, run_on, share_programs, use_one_device

from configs.jepa import get_config
from core import train
from core.config import load_method
from core.method import UNWATCHED
from core.parallel.layouts import unbox
from jepa.distill import either
from jepa.inputs.masks import Masker, Pattern
from jepa.losses.dense import (
    LEARNER,
    BothMasks,
    ContextLoss,
    Part,
    make_loss,
    make_prepare,
)
from jepa.nets import model
from jepa.nets.dense_model import DenseEncoder, DensePredictor
from jepa.nets.model import MEAN, STD
from jepa.weights import readers
from jepa.weights.meta_names import gather, table

GRID, B, RAMP = (2, 3, 4), 2, 0.25
THEIRS = {"width": 44, "depth": 4, "hidden": 48, "levels": 2}
SCAN = {"remat": "block"}  # compiled in less time
STUDENT = DenseEncoder(**files.ENCODER, **SCAN, heads=files.HEADS)
TEACHER = DenseEncoder(**THEIRS, **SCAN, heads=2)
PREDICTOR = DensePredictor(**files.DISTILLED, **SCAN, heads=files.PREDICTOR_HEADS)
CLIPS = Part(Masker((Pattern(2, (0.3, 0.3), 8, 6),), GRID, B, 0, "cells"), (0,))
IMAGES = Part(Masker((Pattern(2, (0.3, 0.3), 9, 6),), (1, 3, 4), B, 0), (0,), "image_")
CONTEXT = ContextLoss(weight=0.5, image_weight=0.7)


@pytest.fixture(scope="module")
def drawn():
    """(tensors by Meta's names, params with the teacher's, a batch)."""
    shapes = {
        "encoder": (files.encoder_shapes(**files.ENCODER), STUDENT),
        "teacher": (files.encoder_shapes(**THEIRS), TEACHER),
        "predictor": (files.predictor_shapes(**files.DISTILLED), PREDICTOR),
    }
    tensors = {n: files.random(s, i) for i, (n, (s, _)) in enumerate(shapes.items())}
    params = {
        name: gather(table(module), lambda row, name=name: tensors[name][row.theirs])
        for name, (_, module) in shapes.items()
    }
    rng, masks = np.random.default_rng(0), BothMasks(CLIPS.masker, IMAGES.masker)
    video = rng.integers(0, 256, (B, 4, 48, 64, 3), np.uint8)
    items = [masks({"video": v}, i, rng) for i, v in enumerate(video)]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    batch = make_prepare([CLIPS], CONTEXT)(batch, jax.random.key(0))
    return tensors, params, batch | {"ramp": jnp.full(B, RAMP)}


def loss(drawn):
    """(params, teacher) -> loss of the batch's clips, as the step computes it."""
    batch = drawn[2]
    networks = STUDENT, PREDICTOR
    loss_fn = make_loss(
        networks, CLIPS, IMAGES, context=CONTEXT, image_share=0, teacher=TEACHER
    )
    return lambda params, teacher: loss_fn(params, teacher, batch, None)[0]


def test_loss_is_the_error_of_the_teachers_last_level(drawn):
    tensors, params, batch = drawn
    sums, counts = np.zeros(2), np.zeros(2)
    for b in range(B):
        clip = (batch["video"][b] / 255 - MEAN) / STD
        index = [
            np.asarray(batch[name][b])[np.asarray(batch[f"{name}_valid"][b])]
            for name in ("target", "context")
        ]
        truth = plain_vjepa.encoder21(tensors["teacher"], clip, heads=2, levels=(1, 3))
        truth = plain_vjepa.norm(None, None, truth[:, -44:], 1e-5)
        seen = plain_vjepa.encoder21(
            tensors["encoder"], clip, keep=index[1], heads=files.HEADS, levels=(1, 3)
        )
        found = plain_vjepa.predictor21(
            tensors["predictor"], seen[:, -36:], index[1], index[0], GRID,
            heads=files.PREDICTOR_HEADS, kind="video", token=0,
        )  # fmt: skip
        places = plain_vjepa.raster(GRID)
        gap = places[index[1]][:, None] - places[index[0]]
        near = 1 / np.sqrt(np.linalg.norm(gap, axis=-1).min(1))
        for i, weight in enumerate((1, near)):
            error = np.abs(found[i] - truth[index[i]]).mean(1) * weight
            sums[i] += error.sum()
            counts[i] += len(index[i])
    hidden, visible = sums / counts
    weights = {name: params[name] for name in ("encoder", "predictor")}
    total = jax.jit(loss(drawn))(weights, params["teacher"])
    np.testing.assert_allclose(total, hidden + 0.5 * RAMP * visible, rtol=1e-4)


def test_no_gradient_reaches_the_teacher(drawn):
    params = drawn[1]
    weights = {name: params[name] for name in ("encoder", "predictor")}
    grads = jax.jit(jax.grad(loss(drawn), argnums=(0, 1)))(weights, params["teacher"])
    assert not any(x.any() for x in jax.tree.leaves(grads[1]))
    assert all(
        jnp.abs(x).max() > 0 for x in jax.tree.leaves(grads[0]["encoder"]["stack"])
    )


def test_a_teacher_that_learns_adds_the_loss_of_v_jepa_2_1_alone(drawn):
    _, params, batch = drawn
    own = DensePredictor(**files.DISTILLED | {"levels": 2, "features": 44}, heads=2)
    first = [batch[name][:1] for name in ("context", "target")]
    seen = jnp.zeros((1, first[0].shape[1], 88))
    theirs = own.init(jax.random.key(0), seen, *first, grid=GRID, use=(0,))
    theirs = {"encoder": params["teacher"], "predictor": unbox(theirs["params"])}
    words = {"context": CONTEXT, "image_share": 0}
    alone = make_loss((TEACHER, own), CLIPS, IMAGES, **words)
    beside = make_loss(
        (STUDENT, PREDICTOR), CLIPS, IMAGES, **words, teacher=TEACHER,
        learner=(TEACHER, own),
    )  # fmt: skip
    student = {name: params[name] for name in ("encoder", "predictor")}
    truth = jax.tree.map(lambda x: 0.9 * x, params["teacher"])

    @jax.jit
    def both(student, theirs):
        found = student | dict(zip(LEARNER, theirs.values(), strict=True))
        return beside(found, truth, batch, None)[0]

    @jax.jit
    def apart(student, theirs):
        return loss(drawn)(student, truth) + alone(theirs, truth, batch, None)[0]

    ours, wanted = (
        jax.value_and_grad(f, argnums=(0, 1))(student, theirs) for f in (both, apart)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, ours, wanted)


@pytest.fixture(scope="module", autouse=True)
def sizes():
    """Smaller networks in runs, which compile in less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "tiny", (48, 2, 2, 64))
        patch.setitem(model.SIZES, "mini", (24, 2, 2, 48))
        patch.setitem(model.SIZES, "S", (96, 2, 2, 384))
        patch.setitem(model.SIZES, "T", (256, 2, 4, 1024))
        yield


def small(preset="tiny_distill", **fields):
    config = get_config(preset)
    changes = {
        "batch": 8,
        "held_batch": 8,
        "steps": 3,
        "log_steps": 1,
        "save_steps": 3,
        "data": {"frames": 4, "workers": 0},
        "encoder": {"remat": "block", "levels": 2},
        "predictor": {"width": 24, "depth": 1, "heads": 2, "hidden": 32},
        "eval_steps": dict.fromkeys(config.eval_steps, -1),
        "mesh": {"data": 1, "fsdp": 1},
    }
    budget = {"context": 8, "target": 4}
    for pattern in config.masks.patterns:
        config.masks.patterns[pattern].update(budget)
    if preset == "tiny_distill":
        changes |= {"random_teacher": True, "teacher": {"levels": 2}}
    else:
        changes["predictor"]["levels"] = 2
    return changed(config, changes, **fields)


def trained(preset="tiny_distill", **fields):
    """`small` with one pattern and one level, so that each network runs once in a step."""
    one = {"encoder__levels": 1, "predictor__levels": 1}
    if preset == "tiny_distill":
        one["teacher__levels"] = 1
    config = small(preset, **one, **fields)
    del config.masks.patterns["steps"]
    return config


def test_eight_devices_train_the_same_run_beside_a_teacher_that_learns():
    config = trained(teacher__learns=True)
    (first, *states), metrics, _ = run_on(config, {"data": 1}, steps=2)
    axes = {"data": 4, "fsdp": 2}
    (_, *split), numbers, _ = run_on(config, axes, steps=2, start=first)
    for name in ("loss", "loss_context", "teacher_loss_prediction", "grad_norm"):
        found = [[x[name] for x in one] for one in (numbers, metrics)]
        np.testing.assert_allclose(*found, rtol=1e-4)
    last, other = jax.device_get((states[-1], split[-1]))
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)  # noqa: E731
    jax.tree.map(close, other.target, last.target)
    jax.tree.map(close, other.teacher, last.teacher)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), last.teacher, first.teacher)
    assert max(jax.tree.leaves(moved)) > 0


def test_a_run_of_the_teacher_is_taken_and_a_resumed_run_is_the_same(
    tmp_path, monkeypatch
):
    use_one_device(monkeypatch)
    share_programs(monkeypatch)
    lead = jax.device_get(
        train.fit(
            trained("tiny_dense", steps=1, objective__image_share=0.0),
            tmp_path / "teacher",
        )
    )
    given = {"init_from": str(tmp_path / "teacher"), "init_parts": "teacher"}
    given |= {"random_teacher": False, "eval_steps__health": 3}
    given["objective__image_share"] = 0.0
    level = {"kind": "constant", "value": 1e-3}

    def config(**fields):
        config = trained(**given, **fields)
        config.optimizer.lr = level
        config.optimizer.momentum = {"kind": "constant", "value": 0.9}
        config.objective.context.update({"start": 0.0, "full": 0.0})
        return config

    whole = jax.device_get(train.fit(config(), tmp_path / "whole"))
    jax.tree.map(np.testing.assert_array_equal, whole.teacher, lead.target)
    train.fit(config(steps=2), tmp_path / "parts")
    again = train.fit(config(), tmp_path / "parts", allow_config_change=True)
    jax.tree.map(np.testing.assert_array_equal, whole, jax.device_get(again))
    drift = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), whole.target, whole.params["encoder"]
    )
    assert max(jax.tree.leaves(drift)) > 0
    health = load_method(config()).evals["health"]
    found = health(again, UNWATCHED)
    assert found["loss_masked"] < 2 and 0.1 < found["student_std"] <= 1.01
    with pytest.raises(ValueError, match="health compares with the teacher"):
        health(again.replace(teacher=None), UNWATCHED)


@pytest.mark.parametrize(
    "fields, words",
    [
        (
            {"predictor__out": 64},
            "predictor.out is 64, but teacher.size is tiny, 48 wide",
        ),
        (
            {"predictor__levels": 3},
            "predictor.levels is 3, but encoder.levels is 2 and",
        ),
        ({"teacher__levels": 1, "predictor__levels": 2}, "teacher.levels is 1; use 1"),
        ({"teacher__size": "huge"}, "size 'huge' is unknown"),
    ],
)
def test_networks_that_do_not_fit_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        load_method(small(**fields))


def test_a_random_teacher_has_to_be_meant():
    config = small(random_teacher=False)
    with pytest.raises(ValueError, match="jepa.distill does not train its teacher"):
        load_method(config).source("train", (0, 1))


def test_the_teacher_is_the_average_in_a_file(tmp_path):
    tensors = {
        name: files.random(files.encoder_shapes(**THEIRS), i)
        for i, name in enumerate(("encoder", "target_encoder"))
    }
    path = files.write(tmp_path, **tensors)
    read = either(
        readers.make_readers(STUDENT, PREDICTOR)["Meta file"],
        readers.make_readers(TEACHER, PREDICTOR)["Meta file"],
    )
    found = read(path, ("teacher",))["teacher"].arrays
    wanted = gather(table(TEACHER), lambda row: tensors["target_encoder"][row.theirs])
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    with pytest.raises(ValueError, match="names teacher and encoder"):
        read(path, ("teacher", "encoder"))
    with pytest.raises(ValueError, match="encoder.width is 44 there, expected 36"):
        read(path, ("encoder",))


@pytest.mark.parametrize("learns", [False, True])
def test_flops_are_those_that_xla_counts(learns):
    """Of wide networks: XLA counts elementwise operations besides."""
    config = small(teacher__size="T", encoder__size="S", objective__image_share=0.0)
    config.teacher.learns = learns
    config.update({"dtype": "float32", "encoder": {"remat": "none"}})
    method = load_method(config)
    source = method.source("train", (0, 1))
    batch = source.next()
    source.close()
    state = unbox(jax.eval_shape(method.init, jax.random.key(0)))
    counted = jax.jit(method.step).lower(state, batch).cost_analysis()["flops"]
    assert method.costs.flops == pytest.approx(counted, rel=0.05)
