"""Features of a frozen encoder that are prepared once: clips, training, refusals."""

import functools

import jax
import numpy as np
import pytest
import small
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from configs import dino_wm
from core.config import load_method, resolve_auto
from core.data import source_names
from core.data.episodes.pictures import FEATURES
from core.parallel.layouts import unbox
from core.parallel.mesh import make_mesh
from core.parallel.weight_digest import weight_digest
from core.prepare import cut_trajectories, run
from core.prepare.encoded import make_encode
from core.prepare.trajectory_pieces import TrajectoryPlan
from core.section import Section
from jepa.nets import model
from jepa.nets.encode import make_frozen
from jepa.worlds.frozen_features import init_encoder, make_encoder
from jepa.worlds.stored_features import with_pictures

PICTURES = "two_rooms:22:32"


@pytest.fixture(autouse=True, scope="module")
def narrow():
    """An encoder that compiles in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "tiny", (24, 1, 2, 32))
        yield


def tiny(source, **fields):
    config = dino_wm.get_config("two_rooms")
    predictor = {"depth": 1, "heads": 2, "head_dim": 12, "hidden": 16}
    changes = {
        "batch": 4,
        "random_encoder": True,
        "init_parts": "",
        "dtype": "float32",
        "data": {"source": str(source), "size": 32},
        "encoder": {"remat": "block", "attention": "plain"},
        "predictor": predictor,
        "mesh": {"data": 1, "fsdp": 1},
    }
    config.optimizer.lr = ConfigDict({"kind": "constant", "value": 1e-3})
    return small.changed(config, changes, **fields)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(encoder, its weights, folder of features)."""
    folder = tmp_path_factory.mktemp("stored") / "features"
    section = Section(resolve_auto(tiny(PICTURES).to_dict(), "cpu"))
    encoder, grid = make_encoder(section)
    init = functools.partial(init_encoder, encoder, grid)
    weights = jax.jit(lambda key: unbox(init(key)))(jax.random.key(3))
    frozen = make_frozen(
        encoder, None, seed=0, data=Section({"frames": 2, "fps": 4.0, "size": 32})
    )
    plan = TrajectoryPlan(PICTURES, piece=100, size=32, encoder=weight_digest(weights))
    encode = make_encode(frozen.still, weights, size=32)
    cut = functools.partial(cut_trajectories.cut_recordings, encode=encode)
    kind = run.TRAJECTORIES._replace(cut=cut)
    run.prepare(kind, plan, str(folder), workers=1, shard_mb=64, say=lambda text: None)
    return weights, folder


def test_features_stand_in_place_of_pictures_in_the_same_splits(stored):
    _, folder = stored
    for split in ("train", "validation"):
        pixels = source_names.recordings(PICTURES, split)
        found = source_names.recordings(str(folder), split)
        assert len(found) == len(pixels) == {"train": 21, "validation": 1}[split]
        steps, wanted = found.load(0), pixels.load(0)
        assert steps.keys() ^ wanted.keys() == {"image", FEATURES + "image"}
        assert steps[FEATURES + "image"].shape == (100, 4, 24)
        assert steps[FEATURES + "image"].dtype == np.float16
        np.testing.assert_array_equal(steps["action"], wanted["action"])
        again = with_pictures(str(folder), split)
        np.testing.assert_array_equal(again.load(0)["image"][:2], wanted["image"][:2])


def test_training_on_features_is_training_on_pixels(stored):
    """The same windows of the same episodes, within what float16 rounds away."""
    weights, folder = stored
    found = []
    for source in (PICTURES, folder):
        method = load_method(tiny(source))
        state = jax.jit(lambda key, init=method.init: unbox(init(key)))(
            jax.random.key(0)
        )
        feed = method.source("train", (0, 1))
        state = state.replace(encoder=weights)
        batch = feed.next(state)
        feed.close()
        found.append((batch, jax.jit(method.step)(state, batch)))
    (pixels, (state, metrics)), (features, (other, others)) = found
    assert "image" not in features and features["features"].shape == (4, 4, 4, 24)
    np.testing.assert_array_equal(pixels["action"], features["action"])
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-3)
    np.testing.assert_allclose(metrics["grad_norm"], others["grad_norm"], rtol=1e-3)
    # Adam's first step has the size of the rate where the gradient is not about zero.
    gaps = jax.tree.map(lambda x, y: np.abs(x - y).mean(), state.params, other.params)
    assert max(jax.tree.leaves(gaps)) < 0.05 * 1e-3, gaps


def test_features_of_another_encoder_are_refused(stored):
    weights, folder = stored
    method = load_method(tiny(folder))
    state = jax.jit(lambda key: unbox(method.init(key)))(jax.random.key(0))
    feed = method.source("train", (0, 1))
    with pytest.raises(
        ValueError, match="has features of the encoder .* but that of th"
    ):
        feed.next(state)
    feed.close()
    with pytest.raises(ValueError, match="pictures of 32 pixels, but data.size is 64"):
        load_method(tiny(folder, data__size=64))


def test_a_digest_is_of_all_numbers_on_any_mesh(stored):
    weights, _ = stored
    mesh = make_mesh(fsdp=4, data=2, devices=jax.devices())
    split = jax.tree.map(
        lambda x: jax.device_put(
            x,
            NamedSharding(mesh, PartitionSpec("fsdp" if x.shape[0] % 4 == 0 else None)),
        ),
        weights,
    )
    known = weight_digest(weights)
    assert weight_digest(split) == known
    moved = []
    for place in (3, 4):  # the same numbers, elsewhere
        bias = weights["norm"]["bias"].at[place].set(1.0)
        moved.append(weights | {"norm": weights["norm"] | {"bias": bias}})
    other, third = moved
    assert len({known, weight_digest(other), weight_digest(third)}) == 3
