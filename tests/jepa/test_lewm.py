"""LeWorldModel: counts, batch norm, causality, rollouts, collapse, exact resume, meshes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from configs.lewm import get_config
from core import train
from core.config import load_method, resolve_auto
from core.data.episodes.scripted import open_task
from core.data.rooms.episodes import TWO_ROOMS
from core.method import Watch
from core.parallel.layouts import unbox
from core.parallel.mesh import make_mesh
from core.runs.restore import open_weights
from core.section import Section
from jepa import lewm
from jepa.nets.batch_norm import Moments, batch_moments, running_moments
from jepa.worlds.block_clips import Clips, make_read
from jepa.worlds.clip_statistics import ClipStatistics, normalized
from jepa.worlds.latent_plan import make_goal_model
from jepa.worlds.lewm_model import Projector
from jepa.worlds.lewm_networks import make_networks, make_world

VIT = {"kind": "vit", "patch": 4, "width": 16, "depth": 1, "heads": 2, "hidden": 32}
VIT |= {"attention": "plain", "remat": "none"}


def tiny(**fields):
    return small.lewm(**{"dtype": "float32", **fields})


def section(config):
    return Section(resolve_auto(config.to_dict(), "cpu"))


@pytest.fixture(scope="module")
def made():
    """(networks, weights of which none is zero, running moments, latents, blocks)."""
    networks = make_networks(section(tiny()), width=2)
    shapes = unbox(jax.eval_shape(networks.init, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def draw(x):
        return jnp.asarray(rng.normal(0, 0.4, x.shape), jnp.float32)

    params = jax.tree.map(draw, shapes)
    norms = {
        name: Moments(*np.abs(rng.normal(1, 0.3, (2, 16))).astype(np.float32))
        for name in ("projector", "pred_proj")
    }
    z = jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.float32)
    blocks = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    return networks, params, norms, z, blocks


def test_the_published_preset_has_the_published_weights():
    """18.04 M numbers in 303 tensors, as in the released file: batch norm has buffers there,
    and query, key and value of the predictor are one kernel."""
    networks = make_networks(section(get_config("pusht")), width=2)
    shapes = unbox(jax.eval_shape(networks.init, jax.random.key(0)))
    numbers = sum(x.size for x in jax.tree.leaves(shapes))
    buffers = 2 * (2 * 2048 + 1)
    assert numbers + buffers == 18_042_672
    stack = shapes["encoder"].pop("stack")
    tensors = 12 * len(jax.tree.leaves(stack)) + len(jax.tree.leaves(shapes))
    assert tensors - 6 * 2 + 2 * 3 == 303
    wanted = {"encoder": 5_501_376, "projector": 792_768, "action": 156_206}
    wanted |= {"predictor": 10_791_360, "pred_proj": 792_768}
    shapes["encoder"]["stack"] = stack
    found = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in shapes.items()}
    assert found == wanted


def test_batch_norm_is_that_of_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 5, 6)).astype(np.float32)
    mean, var = batch_moments(jnp.asarray(x))
    np.testing.assert_allclose(mean, x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1)), rtol=1e-4)
    old = Moments(jnp.ones(6), jnp.full(6, 2.0))
    new = running_moments(old, jnp.asarray(x))
    np.testing.assert_allclose(new.mean, 0.9 + 0.1 * x.mean((0, 1)), rtol=1e-5)
    unbiased = x.reshape(20, 6).var(0, ddof=1)
    np.testing.assert_allclose(new.var, 1.8 + 0.1 * unbiased, rtol=1e-4)

    net = Projector(7, 3)
    params = unbox(net.init(jax.random.key(0), x))["params"]
    params = jax.tree.map(lambda w: w + 0.1 * rng.standard_normal(w.shape), params)
    up, down = (
        {k: np.asarray(v) for k, v in params[n].items()} for n in ("up", "down")
    )

    def plain(mean, var):
        y = x @ up["kernel"] + up["bias"]
        m, v = (y.mean((0, 1)), y.var((0, 1))) if mean is None else (mean, var)
        y = (y - m) / np.sqrt(v + 1e-5) * params["scale"] + params["bias"]
        y = np.asarray(jax.nn.gelu(y, approximate=False))
        return y @ down["kernel"] + down["bias"]

    for given in (
        None,
        Moments(np.full(7, 0.3, np.float32), np.full(7, 1.7, np.float32)),
    ):
        found, _ = net.apply({"params": params}, x, given)
        mean, var = given or (None, None)
        np.testing.assert_allclose(found, plain(mean, var), rtol=1e-3, atol=1e-4)


def test_actions_have_no_effect_at_first_and_the_future_never(made):
    networks, params, norms, z, blocks = made
    predict = jax.jit(lambda p, z, a: networks.predict(p, z, a, norms)[0])
    init = jax.jit(networks.predictor.init)(jax.random.key(1), z, z)
    first = params | {"predictor": unbox(init)["params"]}
    np.testing.assert_array_equal(predict(first, z, blocks), predict(first, z, -blocks))
    base = predict(params, z, blocks)
    assert np.abs(base - predict(params, z, -blocks)).max() > 1e-3
    for k in range(3):
        for changed in (
            predict(params, z.at[:, k, 0].add(1.0), blocks),
            predict(params, z, blocks.at[:, k].add(1.0)),
        ):
            np.testing.assert_allclose(changed[:, :k], base[:, :k], atol=1e-6)
            assert np.abs(changed[:, k:] - base[:, k:]).max() > 1e-3


def test_rollouts_of_plans_are_the_predictions_of_training(made):
    """A teacher-forced prediction with all of the context, and a rollout by hand."""
    networks, params, norms, z, blocks = made
    weights = {"params": params, "norms": norms}
    actions = {"mean": np.zeros(2), "std": np.ones(2)}
    world = make_world(networks, window=3)
    model = make_goal_model(world, actions, image="", last=1)
    goal, plans = z[:, 0] + 1, jnp.stack([blocks, -blocks], 1)  # [B, S = 2, 3, 4]
    long = jnp.concatenate([plans, plans[:, :, :1]], 2)

    @jax.jit
    def found(z, blocks):
        start = {"latents": z, "blocks": blocks[:, :2], "goal": goal}
        after = model.roll(weights, start, plans)[:, 0, 0]
        alone = {"latents": z[:, :1], "blocks": blocks[:, :0], "goal": goal}
        cost = model.objective.cost(weights, alone, long, jax.random.key(0))
        return after, model.roll(weights, alone, long)[:, 1], cost[:, 1]

    @jax.jit
    def wanted(z, blocks):
        history = jnp.concatenate([blocks[:, :2], plans[:, 0, :1]], 1)
        forced, _ = networks.predict(params, z, history, norms)
        # From one frame the context grows to three, then its first latent is left behind.
        known = [z[:, 0]]
        for h in range(4):
            seen = slice(max(0, h - 2), h + 1)
            given = jnp.stack(known[seen], 1), long[:, 1, seen]
            known.append(networks.predict(params, *given, norms)[0][:, -1])
        cost = jnp.square(known[-1] - goal).sum(-1)
        return forced[:, -1], jnp.stack(known[1:], 1), cost

    for ours, theirs in zip(found(z, blocks), wanted(z, blocks), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    images = {"image": np.zeros((2, 1, 16, 16, 3), np.uint8)}
    with pytest.raises(ValueError, match="of the goal is .*; expected"):
        model.context(images, np.zeros((2, 0, 4)), {"image": images["image"][:, 0, :8]})


def test_without_a_term_against_collapse_the_latents_collapse():
    """On eight clips: with it prediction beats copying and SIGReg nears its floor."""
    networks = make_networks(section(tiny()), width=2)
    method = load_method(tiny())
    source = method.source("train", (0, 1))
    batch = source.next()
    source.close()
    fit = lewm.make_loss(networks, sigreg_weight=1.0, slices=16, knots=17)
    norms = {"projector": Moments(jnp.zeros(16), jnp.ones(16))}
    norms |= {"pred_proj": norms["projector"]}
    actions = {"mean": jnp.zeros(2), "std": jnp.ones(2)}

    def loss(params, weight, key):
        _, ((found, _), _) = fit(params, (norms, actions), batch, key)
        return found["loss_prediction"] + weight * found["sigreg"], found

    @jax.jit
    def run(params, weight):
        def one(carry, i):
            params, moments = carry
            key = jax.random.fold_in(jax.random.key(0), i)
            grads, found = jax.grad(loss, has_aux=True)(params, weight, key)
            moments = jax.tree.map(
                lambda m, g: 0.9 * m + 0.1 * jnp.sign(g), moments, grads
            )
            params = jax.tree.map(lambda p, m: p - 3e-3 * m, params, moments)
            return (params, moments), found

        zeros = jax.tree.map(jnp.zeros_like, params)
        (params, _), found = jax.lax.scan(one, (params, zeros), jnp.arange(300))
        z, _ = networks.encode(params, batch["image"])
        return z, jax.tree.map(lambda x: x[-1], found)

    params = jax.jit(lambda: unbox(networks.init(jax.random.key(0))))()
    for weight, collapses in ((0.0, True), (0.2, False)):
        z, found = run(params, weight)
        std = float(np.asarray(z).std((0, 1)).mean())
        copied = float(np.square(z[:, 1:] - z[:, :-1]).mean())
        if collapses:
            assert std < 0.1 and found["sigreg"] > 0.3 * 8 * 0.8, (std, found)
        else:
            assert std > 0.5 and found["sigreg"] < 1.6, (std, found)
            assert found["loss_prediction"] < 0.3 * copied, (copied, found)


def test_actions_are_normalized_by_the_data_and_missing_ones_are_zero():
    read = make_read(section(tiny())["data"], seed=0, skip=2)
    records, _ = read("train", frames=4)
    found = ClipStatistics(records, {"action": 2})
    every = np.concatenate(
        [open_task(TWO_ROOMS, "two_rooms:40:16").load(i)["action"] for i in range(38)]
    )
    assert found.width("action") == 2
    np.testing.assert_allclose(
        found.numbers["action"]["mean"], every.mean(0), atol=0.05
    )
    np.testing.assert_allclose(found.numbers["action"]["std"], every.std(0), atol=0.03)
    block = jnp.array([[1.0, 2.0, np.nan, 4.0]])
    actions = {"mean": jnp.array([1.0, 0.0]), "std": jnp.array([2.0, 4.0])}
    np.testing.assert_allclose(normalized(block, actions, 2), [[0, 0.5, 0, 1]])


def config_of_runs():
    """All terms and dropout, on a transformer; an eps at which rounding stays rounding."""
    config = tiny(predictor__dropout=0.1, optimizer__eps=1e-2)
    config.encoder = ConfigDict(VIT)
    config.objective = ConfigDict(
        config.objective.to_dict() | {"variance": 0.1, "covariance": 0.1}
    )
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(state of four steps, state of two and two, folder)."""
    folder = tmp_path_factory.mktemp("lewm")
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
    assert not np.allclose(whole.norms["projector"].mean, 0)
    method = load_method(config_of_runs())
    found = method.evals["health"](whole, Watch())
    assert 1 <= found["rank"] <= 8 and found["sigreg"] > 0.5
    r2 = method.evals["probe"](whole, Watch())
    assert r2["position_low"] <= r2["position"] <= r2["position_high"] <= 1


def test_a_run_is_read_as_weights_with_its_statistics(runs, tmp_path):
    """Plans with other settings than the run's need its batch norm and actions, too."""
    whole, _, folder = runs
    opened = open_weights(config_of_runs(), folder / "whole", tmp_path)
    state, report = opened.read(make_mesh(devices=jax.devices()[:1]))
    for name in ("params", "norms", "actions"):
        pairs = jax.device_get(getattr(state, name)), getattr(whole, name)
        jax.tree.map(np.testing.assert_array_equal, *pairs)
    assert any(line.startswith("norms: from checkpoint") for line in report)


def test_plans_are_evaluated_and_exported(runs, tmp_path):
    """Rows and table of an evaluation; the exported program acts within the bounds."""
    whole, _, _ = runs
    method = load_method(config_of_runs())
    found = method.evals["plan"](whole, Watch())
    assert found["near/replay/success"] == 1 and "| near | cem |" in found["table"]
    origin = {"parent": "run", "revision": "1", "devices": "cpu", "packages": {}}
    assert method.exports["planner"](whole, tmp_path, origin) < 1e-3
    about = json.loads((tmp_path / "planner.json").read_text())
    assert about["inputs"]["goal/image"]["shape"] == [1, 16, 16, 3]
    assert about["steps"] == 4 and about["rate"] == 10
    assert [x["name"] for x in about["action"]] == ["right", "down"]
    assert all((x["low"], x["high"]) == (-1, 1) for x in about["action"])
    config = config_of_runs()
    config.plan.world = ""
    with pytest.raises(ValueError, match="plan.world is empty, so plans cannot be"):
        load_method(config).evals["plan"](whole, Watch())


def test_eight_devices_train_the_same_run(runs):
    """Statistics of batch norm, SIGReg and VICReg are those of the global batch."""
    one, _, folder = runs
    axes = {"data": 2, "fsdp": 2, "tensor": 2}
    states, metrics, _ = small.run_on(config_of_runs(), axes, steps=4)
    state, found = states[-1], [[x["loss"], x["grad_norm"]] for x in metrics]
    np.testing.assert_allclose(found, losses(folder / "whole"), rtol=2e-5)
    for name in ("params", "norms"):
        pairs = jax.device_get(getattr(state, name)), getattr(one, name)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), *pairs
        )


def test_clips_take_frames_and_the_actions_between():
    @dataclasses.dataclass(frozen=True)
    class One:
        def load(self, index, rng=None):
            count = np.arange(7, dtype=np.float32)
            images = (
                np.zeros((7, 4, 4, 3), np.uint8)
                + count.astype(np.uint8)[:, None, None, None]
            )
            return {"image": images, "action": np.stack([count - 1, -count], 1)}

        def __len__(self):
            return 1

    clip = Clips(One(), 3, 8).load(0)
    np.testing.assert_array_equal(clip["image"][:, 0, 0, 0], [0, 3, 6])
    assert clip["image"].shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(
        clip["action"], [[0, -1, 1, -2, 2, -3], [3, -4, 4, -5, 5, -6]]
    )


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"accumulate": 2}, "accumulate is 2, but batch norm"),
        ({"plan__world": "maze"}, "plan.world is 'maze'; use two_rooms, pushing"),
        ({"plan__window": 4}, "plan.window is 4; use 1 to 3, the history"),
        ({"plan__last": 9}, "plan.last is 9; use 1 to ., the horizon, or 0 for all"),
        ({"encoder__kind": "cnn"}, "encoder.kind is 'cnn'; use vit or conv"),
        ({"data__size": 18}, "data.size 18 does not divide into patches of 4"),
        ({"data__image": "wrist"}, "has no picture 'wrist'; expected one of image"),
        (
            {"data__source": "two_rooms:9:16", "clip__skip": 40},
            "has no episode of 121 steps",
        ),
    ],
)
def test_wrong_fields_are_named(fields, text):
    with pytest.raises(ValueError, match=text):
        load_method(tiny(**fields))
