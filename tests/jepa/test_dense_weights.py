"""Meta's files of V-JEPA 2.1 and 2-AC: read, computed with, written back, refused."""

import functools

import dense_files as files
import jax
import jax.numpy as jnp
import numpy as np
import plain_vjepa
import pytest

from core.nn.token_order import take
from jepa.nets.dense_model import DenseEncoder, DensePredictor, level_blocks
from jepa.nets.model import Encoder, Predictor, grid_of, patchify
from jepa.weights import meta_names, readers
from jepa.worlds.ac_model import ActionPredictor

ENCODER = DenseEncoder(**files.ENCODER, heads=files.HEADS)
PREDICTOR = DensePredictor(**files.PREDICTOR, heads=files.PREDICTOR_HEADS)
CLIP = np.random.default_rng(0).standard_normal((4, 48, 64, 3)).astype(np.float32)
GRID = (2, 3, 4)
CONTEXT, TARGET = np.array([[20, 1, 7, 12, 4]]), np.array([[0, 23, 9]])
TOKEN = 2

same = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def tensors():
    return {
        "target_encoder": files.random(files.encoder_shapes(**files.ENCODER), 1),
        "predictor": files.random(files.predictor_shapes(**files.PREDICTOR), 2),
    }


def read(path, parts=(), encoder=ENCODER, predictor=PREDICTOR):
    modules = {"encoder": encoder, "predictor": predictor}
    return readers.read_meta(path, parts, modules=modules)


@pytest.fixture(scope="module")
def params(tensors, tmp_path_factory):
    found = read(files.write(tmp_path_factory.mktemp("v21"), **tensors))
    return {part: x.arrays for part, x in found.items()}


@functools.partial(jax.jit, static_argnames="hierarchy")
def encode(params, clip, index=None, hierarchy=False):
    """Patches of a clip [T, H, W, 3] through the encoder, without the batch axis."""
    patch = ENCODER.patch_of(len(clip))
    patches = patchify(clip[None], patch)
    patches = patches if index is None else take(patches, index)
    return ENCODER.apply(
        {"params": params["encoder"]}, patches, index, grid=grid_of(clip.shape, patch),
        hierarchy=hierarchy,
    )[0]  # fmt: skip


@pytest.mark.parametrize("frames", [4, 1])
def test_encoder_agrees_with_a_plain_one(frames, params, tensors):
    levels = level_blocks(ENCODER.depth, ENCODER.levels)
    assert levels == (1, 3)
    plain = plain_vjepa.encoder21(
        tensors["target_encoder"], np.float64(CLIP[:frames]), heads=files.HEADS,
        levels=levels,
    )  # fmt: skip
    every = encode(params, CLIP[:frames], hierarchy=True)
    same(every, plain)
    same(encode(params, CLIP[:frames]), plain[:, -ENCODER.width :])


@pytest.fixture(scope="module")
def visible(params, tensors):
    """All levels of the visible tokens: (ours, plain)."""
    plain = plain_vjepa.encoder21(
        tensors["target_encoder"], np.float64(CLIP), heads=files.HEADS, levels=(1, 3),
        keep=CONTEXT[0],
    )  # fmt: skip
    return encode(params, CLIP, index=jnp.asarray(CONTEXT), hierarchy=True), plain


@functools.partial(jax.jit, static_argnums=0, static_argnames="image")
def predict(module, params, features, image=False):
    """(hidden, visible) of one clip, without the batch axis."""
    index = jnp.asarray(CONTEXT), jnp.asarray(TARGET)
    options = {"grid": GRID, "use": (TOKEN,), "image": image}
    found = module.apply({"params": params}, features[None], *index, **options)
    return [x[0] for x in found]


@pytest.mark.parametrize("kind", ["video", "img"])
def test_predictor_agrees_with_a_plain_one(kind, params, tensors, visible):
    ours, plain = visible
    same(ours, plain)
    wanted = plain_vjepa.predictor21(
        tensors["predictor"], plain, CONTEXT[0], TARGET[0], GRID,
        heads=files.PREDICTOR_HEADS, kind=kind, token=TOKEN,
    )  # fmt: skip
    found = predict(PREDICTOR, params["predictor"], ours, image=kind == "img")
    for one, other in zip(found, wanted, strict=True):
        same(one, other)


def test_predictor_of_a_distilled_encoder(tensors, visible, tmp_path):
    one = files.random(files.predictor_shapes(**files.DISTILLED), 3)
    path = files.write(tmp_path, ema_encoder=tensors["target_encoder"], predictor=one)
    module = DensePredictor(**files.DISTILLED, heads=files.PREDICTOR_HEADS)
    found = read(path, predictor=module)
    assert found["encoder"].entry == found["target"].entry == "ema_encoder"
    ours, plain = (x[:, -ENCODER.width :] for x in visible)
    wanted = plain_vjepa.predictor21(
        one, plain, CONTEXT[0], TARGET[0], GRID, heads=files.PREDICTOR_HEADS,
        kind="video", token=TOKEN,
    )  # fmt: skip
    for a, b in zip(
        predict(module, found["predictor"].arrays, ours), wanted, strict=True
    ):
        same(a, b)


def robot():
    fields = {k: v for k, v in files.ACTION.items() if k not in ("action", "state")}
    width = (files.ACTION["action"], files.ACTION["state"])
    return ActionPredictor(
        **fields, heads=files.ACTION_HEADS, embodiments=(("droid", *width),)
    )


def test_action_predictor_agrees_with_a_plain_one(tmp_path):
    tensors = files.random(files.action_shapes(**files.ACTION), 4)
    path = files.write(
        tmp_path, predictor=tensors, encoder={"x": np.zeros(1, np.float32)}
    )
    params = read(path, ("predictor",), predictor=robot())["predictor"].arrays
    rng = np.random.default_rng(5)
    given = [rng.standard_normal((3, *n)) for n in ((6, 36), (5,), (6,))]
    wanted = plain_vjepa.action_predictor(
        tensors, *given, (2, 3), heads=files.ACTION_HEADS
    )
    batch = [jnp.asarray(x, jnp.float32)[None] for x in given]
    found = jax.jit(functools.partial(robot().apply, grid=(2, 3)))(
        {"params": params}, *batch
    )
    same(found[0], wanted)
    again = meta_names.to_theirs(params, robot())
    kept = {k: x for k, x in tensors.items() if not k.startswith("extrinsics_encoder.")}
    jax.tree.map(np.testing.assert_array_equal, again, kept)


def test_weights_go_back_to_the_same_tensors(params, tensors):
    for part, module, entry in (
        ("encoder", ENCODER, "target_encoder"),
        ("predictor", PREDICTOR, "predictor"),
    ):
        again = meta_names.to_theirs(params[part], module)
        jax.tree.map(np.testing.assert_array_equal, again, tensors[entry])


def refusal(
    tmp_path, tensors, parts=(), encoder=ENCODER, predictor=PREDICTOR, **entries
):
    path = files.write(tmp_path, **{**tensors, **entries})
    with pytest.raises(ValueError) as caught:
        read(path, parts, encoder, predictor)
    (line,) = str(caught.value).splitlines()
    assert "vit.pt" in line
    return line


CONFIGS = {
    "depth": (
        ENCODER.clone(depth=6),
        PREDICTOR,
        "encoder.depth is 4 there, expected 6",
    ),
    "levels": (
        ENCODER.clone(levels=4),
        PREDICTOR,
        "encoder.levels is 2 there, expected 4; use --config.encoder.levels=2",
    ),
    "width": (
        ENCODER.clone(width=48),
        PREDICTOR,
        "encoder.width is 36 there, expected 48",
    ),
    "predictor's depth": (
        ENCODER,
        PREDICTOR.clone(depth=24),
        "predictor.depth is 2 there, expected 24; use --config.predictor.depth=2",
    ),
    "predictor's levels": (
        ENCODER,
        DensePredictor(**files.DISTILLED, heads=2),
        "predictor.levels is 2 there, expected 1; predictor.out is 36 there, expected 44; "
        "use --config.predictor.levels=2 --config.predictor.out=36",
    ),
    "V-JEPA 2's encoder": (
        Encoder(36, 4, 3, 56),
        PREDICTOR,
        "norms_block.0.weight belongs to V-JEPA 2.1, whose levels each have a norm; the "
        "config's network is of V-JEPA 1 or 2; use a config such as configs/jepa.py:v2_1_G",
    ),
    "V-JEPA 2's predictor": (
        ENCODER,
        Predictor(28, 2, 2, 40, out=36),
        "predictor_proj_context.weight belongs to V-JEPA 2.1, which predicts the context "
        "too; the config's network is of V-JEPA 1 or 2",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_does_not_match_is_named(case, tensors, tmp_path):
    encoder, predictor, words = CONFIGS[case]
    assert words in refusal(tmp_path, tensors, (), encoder, predictor)


def test_tensors_that_are_missing_or_left_over_are_named(tensors, tmp_path):
    whole = tensors["target_encoder"]
    less = {k: x for k, x in whole.items() if k != "img_mod_embed"}
    text = refusal(tmp_path, tensors, target_encoder=less)
    assert "target_encoder: img_mod_embed is missing" in text
    less = {k: x for k, x in whole.items() if k[:8] not in ("blocks.1", "blocks.2")}
    text = refusal(tmp_path, tensors, target_encoder=less)
    assert (
        "blocks.1.attn.proj.bias is missing (23 more: blocks.1 11, blocks.2 12)" in text
    )
    more = whole | {"norm.weight": np.ones(36, np.float32)}
    text = refusal(tmp_path, tensors, target_encoder=more)
    assert "norm.weight is not part of the model" in text
    first = {k: x for k, x in whole.items() if not k.startswith("norms_block.")}
    text = refusal(tmp_path, tensors, target_encoder=first)
    assert "the weights are those of V-JEPA 1 or 2" in text
