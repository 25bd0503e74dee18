"""PLDM: terms of the loss, counts, rollouts, collapse, exact resume, meshes, plans."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from configs.pldm import get_config
from core import train
from core.config import load_method, resolve_auto
from core.method import Watch
from core.parallel.layouts import unbox
from core.section import Section
from jepa import pldm
from jepa.worlds.block_clips import Clips
from jepa.worlds.clip_statistics import ClipStatistics
from jepa.worlds.latent_plan import make_goal_model
from jepa.worlds.pldm_model import Gru, group_normalize, max_pool
from jepa.worlds.pldm_networks import make_networks, make_world

WEIGHTS = ("prediction", "variance", "covariance", "temporal", "inverse")
WEIGHTS += ("variance_time", "covariance_time")


def tiny(**fields):
    return small.pldm(**{"dtype": "float32", **fields})


def section(config):
    return Section(resolve_auto(config.to_dict(), "cpu"))


def plain_vicreg(z):
    """Variance and covariance of samples [N, D], by the formulas of arXiv 2105.04906."""
    N, D = z.shape
    z = z - z.mean(0)
    variance = np.maximum(0, 1 - np.sqrt((z**2).mean(0) + 1e-4)).mean()
    C = z.T @ z / (N - 1)
    off = sum(C[i, j] ** 2 for i in range(D) for j in range(D) if i != j)
    return variance, off / (D * (D - 1))


def test_terms_of_the_loss_are_those_of_numpy():
    rng = np.random.default_rng(0)
    B, T, H, D = 5, 6, 3, 4
    z = rng.normal(0, 0.7, (B, T + 1, D)).astype(np.float32)
    guess = rng.normal(size=(B, H, D)).astype(np.float32)
    read, blocks = rng.normal(size=(2, B, T, 2)).astype(np.float32)
    plain = {
        "prediction": np.mean(
            [(guess[b, h] - z[b, h + 1]) ** 2 for b in range(B) for h in range(H)]
        ),
        "temporal": np.mean([(z[:, t + 1] - z[:, t]) ** 2 for t in range(T)]),
        "inverse": np.mean((read - blocks) ** 2),
    }
    steps = np.mean([plain_vicreg(z[:, t]) for t in range(T + 1)], 0)
    plain["variance_time"], plain["covariance_time"] = np.mean(
        [plain_vicreg(x) for x in z], 0
    )
    for samples, terms in (
        ("steps", steps),
        ("all", plain_vicreg(z.reshape(-1, D))),
    ):
        plain["variance"], plain["covariance"] = terms
        measure = jax.jit(functools.partial(pldm.terms_of, samples=samples))
        found = measure(z, guess, read, blocks)
        assert found.keys() == plain.keys() == set(WEIGHTS)
        for name, x in plain.items():
            np.testing.assert_allclose(found[name], x, rtol=2e-5, err_msg=name)
    assert steps[0] > 0.1 < plain["variance_time"]


def test_the_loss_is_the_weighted_sum(made):
    networks, params, actions, batch = made
    weights = {name: 0.5 + i for i, name in enumerate(WEIGHTS)}
    every = pldm.make_loss(networks, rollout=3, samples="steps", **weights)
    loss, (found, _) = jax.jit(every)(params, actions, batch)
    total = sum(weights[name] * float(found[name]) for name in WEIGHTS)
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_the_published_preset_has_the_weights_of_its_shapes():
    """Three stacks of five convolutions at 65, 33, 17 pixels; a GRU of 512 by 2 actions."""
    networks = make_networks(section(get_config("wall")), width=2)
    shapes = unbox(jax.eval_shape(networks.init, jax.random.key(0)))
    widths, encoder = (3, 32, 64, 64), 0
    for before, after in itertools.pairwise(widths):
        encoder += 9 * before * after + after + 4 * (9 * after * after + after)
        encoder += 4 * 2 * after  # scale and shift of the group norms
    D = 512
    wanted = {
        "encoder": encoder,
        "head": 9 * 9 * 64 * D + D,
        "norm": 2 * D,
        "predictor": 3 * (2 * D + D) + 3 * (D * D + D),
        "inverse": (2 * D + 1) * D + (D + 1) * 2,
    }
    assert {name: count(x) for name, x in shapes.items()} == wanted


@pytest.mark.parametrize("preset", ["eb_jepa", "vit", "pushing", "two_rooms"])
def test_presets_can_be_built(preset):
    config = get_config(preset)
    networks = make_networks(section(config), width=2)
    shapes = unbox(jax.eval_shape(networks.init, jax.random.key(0)))
    assert shapes["norm"]["scale"].shape == (config.latent.width,)
    assert config.objective.rollout == config.clip.frames - 1
    if preset == "vit":  # the encoder of LeWorldModel
        assert count(shapes["encoder"]) == 5_501_376


def test_pooling_takes_the_largest_of_three_by_three():
    x = np.random.default_rng(0).normal(size=(2, 5, 8, 3)).astype(np.float32)
    found = np.asarray(max_pool(jnp.asarray(x)))
    assert found.shape == (2, 3, 4, 3)
    for i in range(3):
        for j in range(4):
            rows = slice(max(0, 2 * i - 1), 2 * i + 2)
            columns = slice(max(0, 2 * j - 1), 2 * j + 2)
            np.testing.assert_array_equal(
                found[:, i, j], x[:, rows, columns].max((1, 2))
            )


def test_group_norm_is_over_the_channels_of_a_group():
    x = np.random.default_rng(0).normal(3, 2, (2, 4, 5, 6)).astype(np.float32)
    found = group_normalize(jnp.asarray(x), 2, eps=1e-5)
    for n in range(2):
        for part in (slice(0, 3), slice(3, 6)):
            y = x[n, :, :, part]
            plain = (y - y.mean()) / np.sqrt(y.var() + 1e-5)
            np.testing.assert_allclose(
                found[n, :, :, part], plain, rtol=1e-3, atol=1e-5
            )


@pytest.fixture(scope="module")
def made():
    """(networks, params, statistics of actions, a batch of clips of noise)."""
    networks = make_networks(section(tiny()), width=2)
    params = jax.jit(lambda: unbox(networks.init(jax.random.key(0))))()
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 4, 16, 16, 3), np.uint8),
        "action": rng.normal(size=(8, 3, 4)).astype(np.float32),
    }
    return networks, params, {"mean": jnp.zeros(2), "std": jnp.ones(2)}, batch


def test_the_predictor_is_a_gru_of_its_latent():
    rng = np.random.default_rng(0)
    D, net = 3, Gru(3)
    z, a = rng.normal(size=(4, D)), rng.normal(size=(4, 2))
    z, a = z.astype(np.float32), a.astype(np.float32)
    shapes = unbox(jax.eval_shape(net.init, jax.random.key(0), z, a))["params"]
    draw = lambda x: rng.normal(size=x.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, shapes)
    W, U = (jax.tree.map(np.asarray, params[k]) for k in ("action", "latent"))
    x = a @ W["kernel"] + W["bias"]
    h = z @ U["kernel"] + U["bias"]
    r = 1 / (1 + np.exp(-(x[:, :D] + h[:, :D])))
    u = 1 / (1 + np.exp(-(x[:, D : 2 * D] + h[:, D : 2 * D])))
    n = np.tanh(x[:, 2 * D :] + r * h[:, 2 * D :])
    np.testing.assert_allclose(
        jax.jit(net.apply)({"params": params}, z, a),
        u * z + (1 - u) * n,
        rtol=1e-4,
        atol=1e-6,
    )


def test_rollouts_are_predictions_one_after_another(made):
    networks, params, _, batch = made
    world, weights = make_world(networks), {"params": params}
    z = jax.jit(networks.encode)(params, batch["image"])
    blocks = batch["action"]
    found = jax.jit(world.roll)(weights, z[:, :1], blocks)
    known, predict = z[:, 0], jax.jit(networks.predict)
    for t in range(3):
        known = predict(params, known, blocks[:, t])
        np.testing.assert_allclose(found[:, t], known, rtol=1e-4, atol=1e-5)
    # A latent, encoded or predicted, has the mean and variance that the norm gives it.
    np.testing.assert_allclose(np.asarray(found).mean(-1), 0, atol=1e-5)
    forced = jax.jit(world.predict)(weights, z[:, :-1], blocks)
    np.testing.assert_allclose(forced[:, 0], found[:, 0], rtol=1e-4, atol=1e-5)


def test_the_cost_of_a_plan_sums_its_steps(made):
    networks, params, actions, batch = made
    weights, world = {"params": params}, make_world(networks)
    plans = jnp.asarray(batch["action"]).reshape(2, 4, 3, 4)
    images = {"image": batch["image"][:2, :1]}
    costs = {}
    for last in (0, 1):
        model = make_goal_model(world, actions, image="", last=last)
        context = model.context(
            images, np.zeros((2, 0, 4)), {"image": batch["image"][2:4, 0]}
        )
        start = jax.jit(model.objective.encode)(weights, context)
        key = jax.random.key(0)
        costs[last] = jax.jit(model.objective.cost)(weights, start, plans, key)
    z, goal = start["latents"][:, 0], start["goal"]
    roll = jax.jit(networks.roll)
    for b in range(2):
        for s in range(4):
            rolled = roll(params, z[b : b + 1], plans[b, s][None])[0]
            gaps = np.square(rolled - goal[b]).sum(-1)
            np.testing.assert_allclose(costs[0][b, s], gaps.sum(), rtol=1e-4)
            np.testing.assert_allclose(costs[1][b, s], gaps[-1], rtol=1e-4)


def test_without_variance_and_inverse_dynamics_the_latents_collapse():
    """On eight clips: the share of a latent's variance that tells clips apart."""
    config = tiny()
    conv = {"kind": "conv", "patch": 4, "channels": (8,), "kernel": 3}
    config.encoder = ConfigDict(conv)
    networks = make_networks(section(config), width=2)
    source = load_method(config).source("train", (0, 1))
    batch = source.next()
    source.close()
    actions = {"mean": jnp.zeros(2), "std": jnp.ones(2)}
    full = dict.fromkeys(WEIGHTS, 0.0) | {"prediction": 1.0, "temporal": 0.7}
    terms = {"variance": 4.0, "covariance": 1.0, "inverse": 1.0}
    fit = pldm.make_loss(networks, rollout=3, samples="all", **full | terms)
    bare = pldm.make_loss(networks, rollout=3, samples="all", **full)

    def run(loss_fn, params):
        def one(carry, i):
            params, moments = carry
            grads, _ = jax.grad(loss_fn, has_aux=True)(params, actions, batch)
            moments = jax.tree.map(
                lambda m, g: 0.9 * m + 0.1 * jnp.sign(g), moments, grads
            )
            return (
                jax.tree.map(lambda p, m: p - 3e-3 * m, params, moments),
                moments,
            ), 0

        zeros = jax.tree.map(jnp.zeros_like, params)
        (params, _), _ = jax.lax.scan(one, (params, zeros), jnp.arange(300))
        return networks.encode(params, batch["image"]).std((0, 1)).mean()

    params = jax.jit(lambda: unbox(networks.init(jax.random.key(0))))()
    kept, lost = (float(jax.jit(run, static_argnums=0)(f, params)) for f in (fit, bare))
    assert kept > 0.6 and lost < 0.1, (kept, lost)


def config_of_runs():
    """All terms, a transformer, limits of gradients; an eps at which rounding stays small."""
    config = tiny(
        optimizer__eps=1e-2, optimizer__clip_norm=5.0, optimizer__clip_each=2.0
    )
    vit = {"kind": "vit", "patch": 4, "width": 16, "depth": 1, "heads": 2, "hidden": 32}
    config.encoder = ConfigDict(vit | {"attention": "plain", "remat": "none"})
    config.objective.covariance_time = 0.1
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(state of four steps, state of two and two, folder)."""
    folder = tmp_path_factory.mktemp("pldm")
    with pytest.MonkeyPatch.context() as patch:
        small.use_one_device(patch)
        small.share_programs(patch)
        config = config_of_runs()
        whole = train.fit(config, folder / "whole")
        config.steps = 2
        train.fit(config, folder / "parts")
        config.steps = 4
        parts = train.fit(config, folder / "parts", allow_config_change=True)
    return (*jax.device_get((whole, parts)), folder)


def losses(folder):
    """[loss, gradient norm] of the steps of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [[line["loss"], line["grad_norm"]] for line in lines]


def test_a_resumed_run_is_exact_and_evaluated(runs):
    whole, parts, folder = runs
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert losses(folder / "whole") == losses(folder / "parts")
    method = load_method(config_of_runs())
    found = method.evals["health"](whole, Watch())
    assert 1 <= found["rank"] <= 8 and found["rollout_ratio"] > 0
    r2 = method.evals["probe"](whole, Watch())
    assert r2["position_low"] <= r2["position"] <= r2["position_high"] <= 1


def test_plans_are_evaluated_and_exported(runs, tmp_path):
    whole, _, _ = runs
    method = load_method(config_of_runs())
    found = method.evals["plan"](whole, Watch())
    assert found["near/replay/success"] == 1 and "| near | mppi |" in found["table"]
    origin = {"parent": "run", "revision": "1", "devices": "cpu", "packages": {}}
    assert method.exports["planner"](whole, tmp_path, origin) < 1e-3
    about = json.loads((tmp_path / "planner.json").read_text())
    assert about["inputs"]["goal/image"]["shape"] == [1, 16, 16, 3]


def test_eight_devices_train_the_same_run(runs):
    """Variance and covariance are those of the global batch."""
    one, _, folder = runs
    axes = {"data": 2, "fsdp": 2, "tensor": 2}
    states, metrics, _ = small.run_on(config_of_runs(), axes, steps=4)
    found = [[x["loss"], x["grad_norm"]] for x in metrics]
    np.testing.assert_allclose(found, losses(folder / "whole"), rtol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4),
        jax.device_get(states[-1].params),
        one.params,
    )


def test_data_without_actions_is_refused():
    class Still:
        def load(self, index, rng=None):
            return {
                "image": np.zeros((7, 8, 8, 3), np.uint8),
                "action": np.zeros((7, 0)),
            }

        def name(self, index):
            return f"episode {index}"

        def __len__(self):
            return 2

    with pytest.raises(ValueError, match="episode 0 has no actions between its frames"):
        ClipStatistics(Clips(Still(), 3, 8), {"action": 3}).width("action")


@pytest.mark.parametrize(
    "fields, text",
    [
        (
            {"objective__rollout": 4},
            "objective.rollout is 4, but a clip has 4 frames; use 1 to 3",
        ),
        ({"encoder__kind": "cnn"}, "encoder.kind is 'cnn'; use impala, vit, conv"),
        ({"objective__variance": -1.0}, "objective.variance is -1; use 0 or more"),
        ({"objective__samples": "clips"}, "objective.samples is 'clips'; use steps or"),
        ({"accumulate": 2}, "accumulate is 2, but the terms against collapse"),
        ({"data__size": 2}, "data.size is 2, but encoder.channels halves 2 times"),
        ({"encoder__groups": 3}, "encoder.groups is 3, which does not divide 4"),
    ],
)
def test_wrong_fields_are_named(fields, text):
    with pytest.raises(ValueError, match=text):
        load_method(tiny(**fields))
