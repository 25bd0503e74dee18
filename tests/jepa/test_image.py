"""I-JEPA: loss against single blocks, positions, clips frame by frame, sources, presets."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import plain_vjepa
import pytest
from ml_collections import ConfigDict
from small import changed, record, run_on, share_programs, use_one_device

from configs.jepa import get_config
from core import train
from core.config import load_method
from core.export.export_run import export_run
from core.nn.positions import sincos2d
from core.parallel.layouts import unbox
from jepa.image import make_loss
from jepa.inputs.clips import refuse_frames, single_frames
from jepa.inputs.image_masks import ImageMasker
from jepa.losses import masked
from jepa.nets import model
from jepa.nets.image_model import ImageEncoder
from jepa.nets.model import MEAN, STD, Encoder, Predictor, patchify, standardize
from jepa.pretrain import make_init, make_prepare
from jepa.weights.meta_names import to_theirs

SIZE = {"width": 24, "depth": 2, "heads": 2, "hidden": 48}
GRID, PATCH, B = (1, 5, 6), (1, 4, 4), 3
ENCODER = ImageEncoder(**SIZE, patch=PATCH, positions="sincos2d", remat="block")
PREDICTOR = Predictor(
    **SIZE, out=24, positions="sincos2d", mask_std=0.02, remat="block"
)
MASKER = ImageMasker(GRID, B, 0, context=14, target=9, blocks=2, least=2)


def small(**fields):
    """I-JEPA in a few seconds."""
    config = get_config("tiny_image")
    changes = {
        "batch": 8, "held_batch": 4, "steps": 4, "log_steps": 1, "save_steps": 2,
        "data": {"frames": 2, "workers": 0},
        "encoder": {"remat": "block"},
        "predictor": {"width": 48, "depth": 1},
        "eval_steps": dict.fromkeys(config.eval_steps, -1),
        "optimizer": {"eps": 1e-4},
        "mesh": {"data": 1, "fsdp": 1},
    }  # fmt: skip
    config.optimizer.lr = ConfigDict({"kind": "constant", "value": 1e-3})
    config.optimizer.momentum = ConfigDict({"kind": "constant", "value": 0.99})
    return changed(config, changes, **fields)


@pytest.fixture(scope="module", autouse=True)
def size():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "tiny", tuple(SIZE.values()))
        yield


@pytest.fixture(scope="module")
def drawn():
    """(params, target, batch): random weights, padded budgets."""
    rng = np.random.default_rng(0)
    init = make_init(ENCODER, PREDICTOR, grid=GRID)
    shapes = unbox(jax.eval_shape(init, jax.random.key(0)))
    params, target = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32),
        (shapes.params, shapes.target),
    )
    items = [
        MASKER({"video": rng.integers(0, 256, (1, 20, 24, 3), np.uint8)}, i, rng)
        for i in range(B)
    ]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    assert not batch["target_valid"].all() and not batch["context_valid"].all()
    return params, target, batch


def test_loss_is_that_of_each_block_alone(drawn):
    """One predictor call per target block, without padding, all in plain numpy."""
    params, target, batch = drawn
    run = jax.jit(make_loss(ENCODER, PREDICTOR, MASKER))
    weighed = make_prepare(MASKER)(batch, jax.random.key(0))
    total, _ = run(params, target, weighed, jax.random.key(0))
    names = Encoder(**SIZE, patch=PATCH)
    encoder, average = (to_theirs(x, names) for x in (params["encoder"], target))
    predictor = to_theirs(params["predictor"], PREDICTOR)
    where = np.stack(np.unravel_index(np.arange(np.prod(GRID)), GRID), -1)
    look = {"heads": SIZE["heads"], "added": sincos2d(where, SIZE["width"])}
    errors = []
    for b in range(B):
        clip = (batch["video"][b] / 255 - MEAN) / STD
        truth = plain_vjepa.encoder(average, clip, **look)
        truth = plain_vjepa.norm(None, None, truth, 1e-5)
        seen = batch["context"][b, :14][batch["context_valid"][b, :14]]
        features = plain_vjepa.encoder(encoder, clip, keep=seen, **look)
        for block in range(2):
            here = slice(9 * block, 9 * block + 9)
            hidden = batch["target"][b, here][batch["target_valid"][b, here]]
            guess = plain_vjepa.predictor(
                predictor, features, seen, hidden, GRID, token=0, **look
            )
            gap = np.abs(guess - truth[hidden])
            errors.append(np.where(gap < 1, gap**2 / 2, gap - 0.5).mean())
    # Blocks of a batch have one size, so that all count the same.
    np.testing.assert_allclose(total, np.mean(errors), rtol=1e-4)


def test_smooth_l1():
    found = masked.smooth_l1(jnp.array([-3.0, -1.0, -0.5, 0.0, 0.2, 1.0, 2.0]))
    np.testing.assert_allclose(found, [2.5, 0.5, 0.125, 0, 0.02, 0.5, 1.5], rtol=1e-6)


def test_positions_are_sines_then_cosines_of_row_then_column():
    found = sincos2d(np.array([[7, 2, 3]]), 8)[0]
    angles = np.array([1, 0.01])  # 10000^0 and 10000^-(1/2)
    row, col = 2 * angles, 3 * angles
    wanted = [*np.sin(row), *np.cos(row), *np.sin(col), *np.cos(col)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_clip_is_read_frame_by_frame(drawn):
    weights = {"params": drawn[0]["encoder"]}
    video = np.random.default_rng(1).integers(0, 256, (2, 3, 20, 24, 3), np.uint8)
    encode = jax.jit(ENCODER.apply, static_argnames="grid")
    whole = encode(weights, standardize(patchify(video, PATCH)), grid=(3, 5, 6))
    for t in range(3):
        patches = standardize(patchify(video[:, t : t + 1], PATCH))
        one = encode(weights, patches, grid=(1, 5, 6))
        np.testing.assert_allclose(whole[:, 30 * t : 30 * t + 30], one, atol=1e-5)


def test_a_mesh_trains_the_same_run():
    found, start = [], None
    for axes in ({"data": 1}, {"data": 2, "fsdp": 2}):
        states, metrics, _ = run_on(small(), axes, steps=2, start=start)
        numbers = [[x["loss"], x["grad_norm"]] for x in metrics]
        found.append((numbers, jax.device_get(states[-1])))
        start = states[0]
    (one, alone), (four, split) = found
    np.testing.assert_allclose(four, one, rtol=2e-5)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=0)
    jax.tree.map(close, split.params, alone.params)
    jax.tree.map(close, split.target, alone.target)


def test_a_resumed_run_on_images_is_the_same_and_exported(tmp_path, monkeypatch, capfd):
    """A folder of images as CLASS/NAME; a program takes one image."""
    use_one_device(monkeypatch)
    share_programs(monkeypatch)
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "photos" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 256, (90, 70, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), picture)
    fields = {"data__source": f"images:{tmp_path / 'photos'}", "eval_steps__health": 2}
    whole = train.fit(small(**fields), tmp_path / "whole")
    train.fit(small(**fields, steps=2), tmp_path / "parts")
    again = train.fit(small(**fields), tmp_path / "parts", allow_config_change=True)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(again)
    )
    assert (
        record(tmp_path / "whole")["metrics"] == record(tmp_path / "parts")["metrics"]
    )
    assert "copy_ratio" in capfd.readouterr().out
    export_run(tmp_path / "whole", tmp_path / "out", ["stablehlo"])
    card = (tmp_path / "out" / "stablehlo" / "README.md").read_text()
    assert "An I-JEPA image encoder" in card and "[batch, 1, 64, 64, 3]" in card


def test_sources_of_images_and_of_videos_are_told_apart(tmp_path):
    assert single_frames("images:photos") == "images:photos"
    assert single_frames("frames:world") == "world"
    mixed = single_frames("2*images:photos + 0.5*frames:camera:pong#top")
    assert mixed == "2.0*images:photos + 0.5*camera:pong#top"
    with pytest.raises(
        ValueError, match="names videos, which holds videos; .*frames:v"
    ):
        single_frames("images:photos + videos")
    with pytest.raises(ValueError, match="for encoders of images; expected videos$"):
        refuse_frames("frames:videos")
    for preset in ("tiny", "tiny_dense", "tiny_levjepa"):
        config = get_config(preset)
        config.data.source = "frames:world"
        with pytest.raises(ValueError, match="which is for encoders of images"):
            load_method(config).source("train", (0, 1))
    with pytest.raises(ValueError, match="an image has one frame; use \\(1, 8, 8\\)"):
        load_method(small(encoder__patch=(2, 8, 8)))


def test_a_frame_of_the_world_is_an_image():
    source = load_method(small()).source("train", (0, 1))
    batch = source.next()
    source.close()
    assert batch["video"].shape == (8, 1, 64, 64, 3)
    assert batch.keys() == {
        "video", "context", "context_valid", "target", "target_valid"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "side", "patch", "encoder"),
    [("ijepa_h14", 224, 14, 630_434_560), ("ijepa_h16_448", 448, 16, 630_664_960)],
)
def test_published_presets(preset, side, patch, encoder):
    """ViT-H without class token; positions, 256 or 784 x 1280, are not learned."""
    config = get_config(preset)
    method = load_method(config)
    shapes = unbox(jax.eval_shape(method.init, jax.random.key(0)))
    count = lambda tree: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))  # noqa: E731
    block = 12 * 1280**2 + 13 * 1280
    assert encoder == 32 * block + 2 * 1280 + (3 * patch**2 + 1) * 1280
    assert count(shapes.params["encoder"]) == count(shapes.target) == encoder
    ends = 1281 * 384 + 384 + 2 * 384 + 385 * 1280  # input, mask token, norm, output
    assert count(shapes.params["predictor"]) == 12 * (12 * 384**2 + 13 * 384) + ends
    data, optimizer, masks = config.data, config.optimizer, config.masks
    assert (data.size, data.scale, data.flip, config.batch) == (
        side,
        (0.3, 1),
        False,
        2048,
    )
    lr = optimizer.lr
    assert (lr.start, lr.peak, lr.final, lr.warmup_steps) == (2e-4, 1e-3, 1e-6, 25_000)
    assert (optimizer.decay.start, optimizer.decay.final) == (0.04, 0.4)
    assert (optimizer.momentum.start, optimizer.momentum.final) == (0.996, 1.0)
    assert (masks.blocks, masks.target_scale, masks.context_scale, masks.least) == (
        4, (0.15, 0.2), (0.85, 1.0), 10
    )  # fmt: skip
    assert set(config.eval_steps) == set(method.evals) and method.costs.flops > 0
    assert "hf" not in method.exports
