"""V-JEPA 2-AC: its loss by single predictions, starts, resuming, meshes, poses, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scipy.spatial.transform import Rotation

from configs import ac
from core import train
from core.config import load_method
from core.data.records import BadSample
from core.method import UNWATCHED
from core.nn.layers import normalize
from core.parallel.layouts import unbox
from core.runs import checkpoint
from core.section import Section
from jepa.ac import make_init, make_loss
from jepa.worlds import robot_clips
from jepa.worlds.ac_networks import make_networks
from jepa.worlds.feature_evals import energy, least_energy

same = np.testing.assert_allclose


def tiny(**fields):
    config = ac.get_config("two_rooms")
    changes = {
        "batch": 8,
        "steps": 4,
        "log_steps": 1,
        "save_steps": 2,
        "random_encoder": True,
        "clip": {"frames": 4},
        "data": {"source": "two_rooms:64:32", "size": 32},
        "encoder": {"remat": "block", "attention": "plain"},
        "predictor": {
            "width": 24,
            "depth": 1,
            "heads": 2,
            "hidden": 32,
            "rope_grid": 2,
        },
        "rollout": {"clips": 8, "horizon": 2, "tried": 16},
        "eval_steps": {"rollout": -1},
        "mesh": {"data": 1, "fsdp": 1},
    }
    fields = {"optimizer__lr": {"kind": "constant", "value": 1e-3}} | fields
    rates = fields.pop("optimizer__lr")
    small.changed(config, changes, **fields)
    config.optimizer.lr = rates
    return config


def sections(config):
    return Section(config.to_dict() | {"dtype": "float32"})


@functools.cache
def drawn():
    """(networks, weights, a batch of clips)."""
    networks, widths = make_networks(sections(tiny()))
    state = jax.jit(lambda key: unbox(make_init(networks, widths)(key)))(
        jax.random.key(0)
    )
    method = load_method(tiny())
    source = method.source("train", (0, 1))
    batch = source.next()
    source.close()
    return networks, state, jax.tree.map(jnp.asarray, batch)


def test_the_loss_is_that_of_single_predictions():
    """Frame 1 is predicted once; the rollout goes on from it with actions 0 and 1."""
    networks, state, batch = drawn()
    loss_fn = jax.jit(make_loss(networks, rollout=2))
    total, (metrics, _) = loss_fn(state.params, state.encoder, batch)

    @jax.jit
    def one(features, actions, states):
        x = networks.predictor.apply(
            {"params": state.params["predictor"]},
            features,
            actions,
            states,
            grid=networks.grid,
            embodiment="disc",
        )
        return normalize(x[:, -1], eps=1e-5)

    z = jax.jit(networks.encode)(state.encoder, batch["image"])
    same(z.mean(-1), 0, atol=1e-5)
    action, s = batch["action"], batch["state"]
    forced = [one(z[:, : t + 1], action[:, : t + 1], s[:, : t + 1]) for t in range(3)]
    same(
        metrics["loss_forced"],
        np.mean([np.abs(x - z[:, t + 1]).mean() for t, x in enumerate(forced)]),
        rtol=1e-5,
    )
    seen = jnp.stack([z[:, 0], forced[0]], 1)
    second = one(seen, action[:, :2], s[:, :2])
    errors = [np.abs(x - z[:, t]).mean() for t, x in ((1, forced[0]), (2, second))]
    same(metrics["loss_rollout"], np.mean(errors), rtol=1e-5)
    same(total, metrics["loss_forced"] + metrics["loss_rollout"], rtol=1e-6)


def test_a_run_starts_from_the_target_of_pretraining_and_resumes_exactly(
    tmp_path, monkeypatch, capfd
):
    small.use_one_device(monkeypatch)
    small.share_programs(monkeypatch)
    rooms = {"data__source": "camera:two_rooms:64:32", "data__size": 32}
    config = small.small(steps=2, masks__patterns=PATTERNS, **rooms)
    source = train.fit(config, tmp_path / "rooms")
    options = {"init_from": str(tmp_path / "rooms"), "random_encoder": False}
    whole = train.fit(tiny(**options), tmp_path / "whole")
    said = capfd.readouterr().out
    assert f"from target of checkpoint {tmp_path / 'rooms'}" in said
    jax.tree.map(np.testing.assert_array_equal, whole.encoder, source.target)
    train.fit(tiny(**options, steps=2), tmp_path / "parts")
    parts = train.fit(tiny(**options), tmp_path / "parts", allow_config_change=True)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert small.record(tmp_path / "whole") == small.record(tmp_path / "parts")
    assert checkpoint.steps_in(tmp_path / "parts" / "checkpoints") == [2, 4]


CELLS = {"context": 2, "target": 2}
PATTERNS = {"tubes": {"blocks": 1, "spatial_scale": (0.5, 0.5), **CELLS}}


def test_any_mesh_takes_the_same_step():
    found, start = [], None
    for axes in ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}):
        config = tiny(dtype="float32", optimizer__eps=1e-4)
        states, metrics, _ = small.run_on(config, axes, steps=1, start=start)
        found.append((jax.device_get(states[-1].params), metrics[0]["loss"]))
        start = states[0]
    for params, loss in found[1:]:
        same(loss, found[0][1], rtol=1e-5)
        jax.tree.map(functools.partial(same, atol=1e-5, rtol=0), params, found[0][0])


@pytest.mark.parametrize("known", [1, 2])
def test_plans_keep_keys_and_values_of_earlier_frames(known):
    networks, state, batch = drawn()
    N, D = int(np.prod(networks.grid)), networks.predictor.out
    z = jax.random.normal(jax.random.key(0), (2, 3, N, D))
    action = batch["action"][:2, :3]
    held = jnp.repeat(batch["state"][:2, :1], 3, 1) + 0.5
    weights = {"predictor": state.params["predictor"]}
    seen = {"features": z[:, :known], "states": held[:, :known]}
    found = jax.jit(networks.open_loop)(weights, seen, action)["features"]
    wanted = jax.jit(networks.roll)(*weights.values(), z[:, :known], action, held)
    assert found.shape[1] == 4 - known
    same(found, wanted, atol=1e-5)


def test_two_views_see_each_other():
    config = tiny(data__images=("image", "image"))
    networks, widths = make_networks(sections(config))
    state = jax.jit(lambda key: unbox(make_init(networks, widths)(key)))(
        jax.random.key(0)
    )
    weights = state.params["predictor"]
    assert weights["views"].shape == (2, 24)
    z = jax.random.normal(jax.random.key(1), (1, 2, 8, networks.predictor.out))
    action, nothing = jnp.zeros((1, 2, 2)), jnp.zeros((1, 2, 1))
    predict = jax.jit(networks.predict)
    plain = predict(weights, z, action, nothing)
    other = predict(weights, z.at[:, 0, 4:].add(1.0), action, nothing)
    assert (np.abs(plain - other)[:, :, :4] > 0).any()
    alike = predict(weights, jnp.tile(z[:, :, :4], (1, 1, 2, 1)), action, nothing)
    assert (np.abs(alike[:, :, :4] - alike[:, :, 4:]) > 1e-4).any()


def test_changes_of_poses_are_those_of_scipy():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(9, 7)) * (1, 1, 1, 1.2, 1.2, 1.2, 1)
    found = robot_clips.pose_changes(None, states, 3)
    turns = Rotation.from_euler("xyz", states[:, 3:6])
    change = (turns[1:] * turns[:-1].inv()).as_euler("xyz")
    same(found[:, 3:6], change, atol=1e-9)
    same(found[:, [0, 1, 2, 6]], np.diff(states[:, [0, 1, 2, 6]], axis=0))
    with pytest.raises(
        BadSample, match="states of 3 numbers; data.action=pose needs 7"
    ):
        robot_clips.pose_changes(None, states[:, :3], 3)


def test_least_energy_finds_the_true_action():
    """With an energy that is the distance to the true action, the error is near 0."""
    rng = np.random.default_rng(0)
    true = rng.uniform(-1, 1, (8, 3, 2))
    known = {"image": np.zeros((8, 1)), "state": np.zeros((8, 1)), "action": true}

    def energies(batch):
        return np.linalg.norm(
            batch["tried"] - true[: len(batch["tried"]), None, 0], axis=-1
        )

    found = least_energy(energies, known, 500, UNWATCHED)
    assert found["action_error"] < 0.02 < 0.2 < found["action_error_random"]


def test_energy_of_an_action_is_the_error_after_it():
    networks, state, batch = drawn()
    weights = {"encoder": state.encoder, "predictor": state.params["predictor"]}
    tried = batch["action"][:, :2]
    cost = jax.jit(functools.partial(energy, networks))(
        weights, {**batch, "tried": tried}
    )
    z = jax.jit(networks.encode)(state.encoder, batch["image"])
    predict = jax.jit(networks.predict)
    for i in range(2):
        guess = predict(
            weights["predictor"], z[:, :1], tried[:, i : i + 1], batch["state"][:, :1]
        )
        same(cost[:, i], np.abs(guess[:, 0] - z[:, 1]).mean((1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"random_encoder": False}, "init_from is empty, but jepa.ac does not train"),
        ({"data__action": "all"}, "data.action is 'all'; use one of concatenated, su"),
        ({"embodiment": "arm"}, "embodiment is 'arm'; use one of disc"),
        ({"objective__rollout": 4}, "objective.rollout is 4, but a clip has 4 frames"),
        ({"data__states": ("pose",)}, "has no 'pose', which data.states names"),
        ({"data__size": 40}, "data.size 40 does not divide into patches of 16"),
    ],
)
def test_what_does_not_fit_is_one_sentence(fields, words):
    with pytest.raises(ValueError, match=words):
        method = load_method(tiny(**fields))
        method.source("train", (0, 1)).next()
