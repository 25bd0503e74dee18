"""DINO-WM and JEPA-WM: weights, causality, losses in numpy, rollouts, plans, runs, meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from ml_collections import ConfigDict
from scipy.special import erf

from configs import dino_wm
from core import train
from core.config import load_method, resolve_auto
from core.data.records import BadSample
from core.method import UNWATCHED
from core.nn import row_keys
from core.parallel.layouts import unbox
from core.section import Section
from jepa.dino_wm import PREFIX_STREAM, draw_prefix, make_loss
from jepa.nets import model
from jepa.worlds import feature_pictures, robot_clips
from jepa.worlds.dino_networks import Networks, make_networks
from jepa.worlds.feature_plan import make_goal_model

same = np.testing.assert_allclose
KINDS = ("feature", "adaln")
B, T, N, D, A, S = 3, 3, 4, 24, 4, 2  # clips, frames seen, patches, widths


@pytest.fixture(autouse=True)
def narrow():
    """An encoder that compiles in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "tiny", (24, 1, 2, 32))
        yield


def tiny(kind="feature", **fields):
    """The small preset of a kind, smaller, with the position as proprioception."""
    presets = {"feature": "two_rooms", "adaln": "two_rooms_adaln"}
    config = dino_wm.get_config(presets[kind])
    predictor = {"depth": 1, "heads": 2, "head_dim": 12, "hidden": 16}
    changes = {
        "batch": 8,
        "steps": 4,
        "log_steps": 1,
        "save_steps": 2,
        "random_encoder": True,
        "init_parts": "",
        "dtype": "float32",
        "clip": {"skip": 2},
        "data": {"source": "two_rooms:64:32", "size": 32, "states": ("log/position",)},
        "encoder": {"remat": "block", "attention": "plain"},
        "embed": {"action": 3, "proprio": 2},
        "predictor": predictor | ({"width": 12} if kind == "adaln" else {}),
        "objective": {"proprio": 0.5},
        "rollout": {"clips": 8, "horizon": 4, "tried": 16},
        "plan": {"alpha": 0.5},
        "pictures": {"clips": 8, "horizon": 2, "shown": 2},
        "eval_steps": {"rollout": -1},
        "mesh": {"data": 1, "fsdp": 1},
    }
    config.optimizer.lr = ConfigDict({"kind": "constant", "value": 1e-3})
    return small.changed(config, changes, **fields)


def sections(config):
    return Section(resolve_auto(config.to_dict(), "cpu"))


class Known(Networks):
    """Networks whose images are features."""

    def encode(self, params, images):
        return images


@functools.cache
def made(kind, rollout=1):
    """(networks, weights of which none is zero, batch whose images are features)."""
    networks = Known(*make_networks(sections(tiny(kind, objective__rollout=rollout))))
    rng = np.random.default_rng(0)
    shapes = unbox(
        jax.eval_shape(lambda key: networks.init(key, (A, S)), jax.random.key(0))
    )

    def draw(*shape):
        return jnp.asarray(rng.normal(0, 0.4, shape), jnp.float32)

    params = jax.tree.map(lambda x: draw(*x.shape), shapes)
    steps = {"action": networks.steps, "state": 1}
    statistics = {
        name: {"mean": draw(2), "std": jnp.abs(draw(2)) + 0.5} for name in steps
    }
    batch = {
        "image": draw(B, T + 1, N, D),
        "action": draw(B, T, A),
        "state": draw(B, T + 1, S),
        "keys": jax.random.split(jax.random.key(1), B),
    }
    return networks, params, {"encoder": {}, "statistics": statistics}, batch


def test_the_published_predictor_has_the_weights_of_its_shapes():
    """196 patches of 384 + 10 + 10 channels; 16 heads of 64 without biases, MLP 2048."""
    networks = make_networks(sections(dino_wm.get_config("pusht")))
    found = jax.eval_shape(lambda key: networks.init(key, (10, 4)), jax.random.key(0))
    count = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in found.items()}
    width, inner, hidden = 384 + 10 + 10, 16 * 64, 2048
    norms = 2 * 2 * width
    attention = 3 * width * inner + inner * width + width
    mlp = width * hidden + hidden + hidden * width + width
    wanted = 6 * (norms + attention + mlp) + 2 * width + 3 * 196 * width
    assert count == {"predictor": wanted, "action": 11 * 10, "proprio": 5 * 10}
    assert wanted == 20_122_600


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_sees_no_later_one(kind):
    networks, params, frozen, batch = made(kind)
    weights = params | frozen

    @jax.jit
    def predict(z, action, state):
        seen = networks.observe(weights, z, state)
        found = networks.predict(weights, seen, action)
        return jnp.concatenate([found["features"], found["proprio"]], -1)

    z, a, s = batch["image"][:, :T], batch["action"], batch["state"][:, :T]
    base = predict(z, a, s)
    assert base.shape == (B, T, N, D + 2)
    for k in range(T):
        for changed in (
            predict(z.at[:, k, 0].add(1.0), a, s),
            predict(z, a.at[:, k].add(1.0), s),
            predict(z, a, s.at[:, k].add(1.0)),
        ):
            same(changed[:, :k], base[:, :k], atol=1e-5)
            # All patches of the frame see the change.
            assert (np.abs(changed[:, k:] - base[:, k:]).max((0, 3)) > 1e-4).all()


def test_actions_have_no_effect_at_first_with_adaln():
    networks, _, frozen, batch = made("adaln")
    params = jax.jit(lambda key: unbox(networks.init(key, (A, S))))(jax.random.key(0))

    @jax.jit
    def predict(params, action):
        weights = params | frozen
        seen = networks.observe(weights, batch["image"][:, :T], batch["state"][:, :T])
        return networks.predict(weights, seen, action)["features"]

    same(predict(params, batch["action"]), predict(params, -batch["action"]), rtol=0)
    block = params["predictor"]["stack"]["blocks"]
    block["modulation"] = jax.tree.map(lambda x: x + 0.1, block["modulation"])
    gap = predict(params, batch["action"]) - predict(params, -batch["action"])
    assert np.abs(gap).max() > 1e-3


def plain_layer(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def plain_norm(p, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def plain_predictor(p, x, *, heads):
    """DINO-WM's predictor of one block in numpy: [B, T, N, W] -> [B, T, N, W]."""
    shape = x.shape
    x = (x + p["positions"]).reshape(shape[0], shape[1] * shape[2], shape[3])
    block, frame = p["block0"], np.arange(shape[1] * shape[2]) // shape[2]
    y = plain_norm(block["norm_attention"], x)
    q, k, v = (
        plain_layer(block[name], y).reshape(*y.shape[:2], heads, -1)
        for name in ("query", "key", "value")
    )
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(frame[:, None] >= frame, scores, -np.inf)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    y = np.einsum("bhnm,bmhd->bnhd", share, v).reshape(*y.shape[:2], -1)
    x = x + plain_layer(block["out"], y)
    y = plain_layer(block["up"], plain_norm(block["norm_mlp"], x))
    y = y * (1 + erf(y / np.sqrt(2))) / 2
    x = x + plain_layer(block["down"], y)
    return plain_norm(p["norm"], x).reshape(shape)


def plain_loss(params, targets, statistics, batch):
    """Of one teacher-forced step. targets: weights that embed the target states."""
    known = {
        k: (x - statistics[k]["mean"]) / statistics[k]["std"]
        for k, x in (
            ("state", batch["state"]),
            ("action", batch["action"].reshape(B, T, 2, 2)),
        )
    }
    action = plain_layer(params["action"]["linear"], known["action"].reshape(B, T, A))
    inputs, wanted = (
        np.broadcast_to(
            plain_layer(p["proprio"]["linear"], known["state"])[:, :, None],
            (B, T + 1, N, 2),
        )
        for p in (params, targets)
    )
    action = np.broadcast_to(action[:, :, None], (B, T, N, 3))
    z = batch["image"]
    x = np.concatenate([z[:, :T], inputs[:, :T], action], -1)
    guess = plain_predictor(params["predictor"], x, heads=2)
    error = np.square(guess[..., :D] - z[:, 1:]).mean()
    other = np.square(guess[..., D : D + 2] - wanted[:, 1:]).mean()
    return error + 0.5 * other


def test_the_loss_is_that_of_numpy_and_targets_have_no_gradient():
    networks, params, frozen, batch = made("feature")
    loss_fn = make_loss(networks, rollout=1, proprio=0.5)

    def loss(params):
        return loss_fn(params, frozen, batch)[0]

    found, grads = jax.jit(jax.value_and_grad(loss))(params)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    numbers = {
        k: np.asarray(batch[k], np.float64) for k in ("image", "action", "state")
    }
    args = exact, frozen["statistics"], numbers
    same(found, plain_loss(exact, *args), rtol=1e-5)
    # By differences, with targets that stay.
    for i in range(2):
        sides = []
        for step in (1e-4, -1e-4):
            moved = jax.tree.map(np.copy, exact)
            moved["proprio"]["linear"]["bias"][i] += step
            sides.append(plain_loss(moved, *args))
        slope = (sides[0] - sides[1]) / 2e-4
        same(grads["proprio"]["linear"]["bias"][i], slope, rtol=1e-3, atol=1e-6)


def test_rollouts_are_predictions_whose_gradient_stops_between_steps():
    networks, params, frozen, batch = made("adaln")
    z, actions = batch["image"], batch["action"]
    prefix = draw_prefix(row_keys.fold(batch["keys"], PREFIX_STREAM), 2)
    assert {*np.asarray(prefix).tolist()} == {1, 2}

    @jax.jit
    def rolled(params):
        """Both steps of every clip, and all teacher-forced predictions."""
        weights = params | frozen
        seen = networks.observe(weights, z, batch["state"])
        cut = lambda n, rows: jax.tree.map(lambda x: x[rows, :n], seen)  # noqa: E731
        forced = networks.predict(weights, cut(T, slice(None)), actions)
        steps = [
            networks.open_loop(
                weights, cut(n, slice(i, i + 1)), actions[i : i + 1, : n + 1]
            )
            for i, n in enumerate(np.asarray(prefix).tolist())
        ]
        return seen, forced, steps

    seen, forced, steps = rolled(params)
    errors = []
    for i, n in enumerate(np.asarray(prefix).tolist()):
        same(steps[i]["features"][0, 0], forced["features"][i, n - 1], atol=1e-4)
        gaps = [
            np.square(steps[i][k][0, 1] - seen[k][i, n + 1]).mean()
            for k in ("features", "proprio")
        ]
        errors.append(gaps[0] + 0.5 * gaps[1])
    loss_fn = make_loss(networks, rollout=2, proprio=0.5)
    total, (metrics, _) = jax.jit(loss_fn)(params, frozen, batch)
    same(metrics["loss_rollout"], np.mean(errors), rtol=1e-4)
    same(total, (metrics["loss_forced"] + metrics["loss_rollout"]) / 2, rtol=1e-6)

    def second(params):
        """The same error of the second step alone, from constants."""
        weights, error = params | frozen, 0.0
        for i, n in enumerate(np.asarray(prefix).tolist()):
            known = {
                k: jnp.concatenate([seen[k][i : i + 1, :n], steps[i][k][:, :1]], 1)
                for k in seen
            }
            guess = networks.predict(weights, known, actions[i : i + 1, : n + 1])
            last = {k: x[0, -1] for k, x in guess.items()}
            wanted = {k: x[i, n + 1] for k, x in seen.items()}
            error += networks.error(last, wanted, 0.5) / B
        return error

    by_hand = jax.jit(jax.grad(second))(params)
    found = jax.jit(
        jax.grad(lambda p: loss_fn(p, frozen, batch)[1][0]["loss_rollout"])
    )(params)
    jax.tree.map(functools.partial(same, rtol=2e-3, atol=1e-4), found, by_hand)


@pytest.mark.parametrize("last", [1, 0])
def test_plans_cost_the_distance_of_the_last_frames(last):
    networks, params, frozen, batch = made("feature")
    weights = params | frozen
    known = frozen["statistics"]["action"]
    world = make_goal_model(
        networks, action="concatenated", skip=2, size=D, images=(), states=("place",),
        window=1, reach=0, last=last, mean=known["mean"], std=known["std"],
    )  # fmt: skip
    z, state = batch["image"], batch["state"]
    context = {
        "image": z[:, :1], "state": state[:, :1], "action": jnp.zeros((B, 0, A)),
        "goal": z[:, -1], "goal_state": state[:, -1],
    }  # fmt: skip
    flat = batch["action"].reshape(B, T, 2, 2)
    plans = ((flat - known["mean"]) / known["std"]).reshape(B, 1, T, A)

    @jax.jit
    def both(context, plans):
        """(costs of plans, errors of the frames that count by name)."""
        start = world.objective.encode(weights, context)
        frames = networks.observe(weights, z, state)
        first = {k: x[:, :1] for k, x in frames.items()}
        later = networks.open_loop(weights, first, batch["action"])
        gaps = {k: jnp.square(x - frames[k][:, -1:]) for k, x in later.items()}
        cost = world.objective.cost(weights, start, plans, None)
        return cost, {k: x.mean((2, 3))[:, -last:].sum(1) for k, x in gaps.items()}

    found, gaps = both(context, plans)
    assert gaps["proprio"].min() > 1e-3
    same(found[:, 0], gaps["features"] + 0.5 * gaps["proprio"], rtol=1e-4)


def test_the_encoder_has_no_gradient_and_a_run_resumes_exactly(tmp_path, monkeypatch):
    small.use_one_device(monkeypatch)
    small.share_programs(monkeypatch)
    config = tiny(predictor__dropout=0.1)
    whole = train.fit(config, tmp_path / "whole")
    config.steps = 2
    half = train.fit(config, tmp_path / "parts")
    config.steps = 4
    parts = train.fit(config, tmp_path / "parts", allow_config_change=True)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert small.record(tmp_path / "whole") == small.record(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole.encoder, half.encoder)

    method = load_method(config)
    found = method.evals["pictures"](whole, UNWATCHED)
    rows, columns = found["rollout"].shape[
        :2
    ]  # 2 clips x 3 rows of 3 frames of 96 pixels
    assert rows > 6 * 96 and 3 * 96 < columns < 4 * 96
    # Features of the true frames say more than predictions of a run of four steps.
    assert 1 > found["r2"] > found["r2_predicted"]

    networks = make_networks(sections(config))
    source = method.source("train", (0, 1))
    batch = jax.tree.map(jnp.asarray, source.next())
    source.close()
    batch["keys"] = jax.random.split(jax.random.key(0), 8)
    loss_fn = make_loss(networks, rollout=1, proprio=0.5)

    def loss(encoder, params):
        return loss_fn(
            params, {"encoder": encoder, "statistics": whole.statistics}, batch
        )[0]

    encoder, params = jax.jit(jax.grad(loss, argnums=(0, 1)))(
        whole.encoder, whole.params
    )
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(encoder))
    assert all(np.asarray(x).any() for x in jax.tree.leaves(params["proprio"]))


def test_pictures_are_decoded_by_regression_on_features(monkeypatch):
    """Of features that hold the pixels, all is decoded; of noise, nothing."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 3, 2, 32, 48, 3), np.uint8)
    networks = make_networks(sections(tiny()))
    y = feature_pictures.pixels_of(networks, images)
    assert y.shape == (6, 3, 2 * 2 * 3, 16 * 16 * 3)
    for i in range(6):
        frames = feature_pictures.to_frames(y[i], networks, images.shape)
        same(frames, np.concatenate([images[i, :, 0], images[i, :, 1]], 2), atol=0)
    y = y[..., :5]
    x = y @ rng.normal(size=(5, 9)) + 0.3
    monkeypatch.setattr(feature_pictures, "RIDGE", 1e-9)
    found = feature_pictures.decode(feature_pictures.fit(x, y), x)
    assert feature_pictures.explained(found, y) > 0.999
    other = rng.normal(size=(6, 3, 12, 3))
    found = feature_pictures.decode(feature_pictures.fit(other, y), other)
    assert abs(feature_pictures.explained(found, y)) < 0.3
    plain, *_ = np.linalg.lstsq(
        np.c_[other.reshape(-1, 3), np.ones(216)], y.reshape(-1, 5), rcond=None
    )
    same(feature_pictures.fit(other, y), plain, rtol=1e-4, atol=1e-5)


def test_any_mesh_takes_the_same_step():
    """The blocks of the other kind are LeWorldModel's, whose test has a mesh, too."""
    config = tiny("adaln", objective__rollout=2, optimizer__eps=1e-4)
    found, start = [], None
    for axes in ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}):
        states, metrics, _ = small.run_on(config, axes, steps=1, start=start)
        found.append((jax.device_get(states[-1].params), metrics[0]["loss"]))
        start = states[0]
    same(found[1][1], found[0][1], rtol=1e-5)
    jax.tree.map(functools.partial(same, atol=1e-5, rtol=0), found[1][0], found[0][0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"random_encoder": False},
            "init_from is empty, but jepa.dino_wm does not trai",
        ),
        ({"plan__alpha": -0.1}, "plan.alpha is -0.1; use 0 or more"),
        ({"plan__alpha": float("nan")}, "plan.alpha is nan; use 0 or more"),
        (
            {"data__states": ()},
            "plan.alpha is 0.5, but data.states names no observation",
        ),
        ({"objective__rollout": 4}, "objective.rollout is 4, but a clip has 4 frames"),
        ({"conditioning": "token"}, "conditioning is 'token'; use feature or adaln"),
        ({"data__states": ("pose",)}, "has no 'pose', which data.states names"),
        ({"plan__window": 4}, "plan.window is 4; use 1 to 3, the history"),
    ],
)
def test_what_does_not_fit_is_one_sentence(fields, words):
    with pytest.raises(ValueError, match=words):
        load_method(tiny(**fields)).source("train", (0, 1)).next()


def test_proprioception_that_is_not_finite_is_a_bad_sample():
    class One:
        def load(self, index, rng=None):
            place = np.zeros((3, 1, 2))
            place[1] = np.nan
            image = np.zeros((3, 32, 32, 3), np.uint8)
            return {"image": image, "action": np.zeros((3, 2)), "log/position": place}

    clips = robot_clips.Clips(One(), 1, 32, "concatenated", ("",), ("log/position",))
    with pytest.raises(BadSample, match="has state values that are not finite"):
        clips.load(0)
