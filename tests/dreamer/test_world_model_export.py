"""Programs of an exported world model, compared with the live networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.agents import action_distributions
from core.agents.spaces import Space
from core.export import artifacts
from core.parallel.layouts import unbox
from dreamer import behavior, update, world_model
from dreamer.export import make_exports
from dreamer.rssm import Latent

SPACES = {"image": Space((48, 48, 3), "uint8"), "state": Space((3,))}
ACTIONS = {"push": Space((2,))}
ORIGIN = {"parent": "runs/x/1", "revision": "abc", "devices": "1", "packages": {}}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, networks, state) of a small world model with an actor."""
    sizes = {"deter": 16, "hidden": 8, "classes": 4, "depth": 2, "units": 8}
    model = world_model.make_world_model(SPACES, ACTIONS, stoch=4, **sizes)
    heads = behavior.make_behavior(model.actions, units=8)
    state = unbox(update.make_init(model, heads, batch=2, length=3)(jax.random.key(0)))
    folder = tmp_path_factory.mktemp("artifact")
    write = make_exports(model, heads, config={"seed": 0})["world_model"]
    assert write(state, folder, ORIGIN) < 1e-4
    return folder, model, heads, state


def inputs(seed, model, B=3):
    rng = np.random.default_rng(seed)
    return {
        "deter": rng.standard_normal((B, 16)).astype(np.float32),
        "stoch": np.eye(4, dtype=np.float32)[rng.integers(0, 4, (B, 4))],
        "action": rng.uniform(-1, 1, (B, 2)).astype(np.float32),
        "noise": rng.gumbel(size=(B, 4, 4)).astype(np.float32),
        "is_first": np.array([False, True, False]),
        "image": rng.integers(0, 256, (B, 48, 48, 3)).astype(np.uint8),
        "state": rng.standard_normal((B, 3)).astype(np.float32),
    }


def run(folder, name, given):
    program = artifacts.load(folder, name)
    return program(given)


def test_observe_equals_training(exported):
    folder, model, _, state = exported
    given = inputs(0, model)
    embed = run(folder, "encode", {k: given[k] for k in SPACES})["embed"]
    names = ("deter", "stoch", "action", "is_first", "noise")
    found = run(folder, "observe", {k: given[k] for k in names} | {"embed": embed})
    states, _ = model.rssm.apply(
        {"params": state.params["rssm"]},
        Latent(given["deter"], given["stoch"]),
        *(jnp.asarray(x)[None] for x in (given["action"], embed, given["is_first"])),
        given["noise"][None],
        method="observe",
    )
    np.testing.assert_allclose(found["deter"], states.deter[0], atol=1e-5)
    np.testing.assert_allclose(found["stoch"], states.stoch[0], atol=1e-5)


def test_imagine_decode_and_act_equal_training(exported):
    folder, model, heads, state = exported
    given = inputs(1, model)
    here = {k: given[k] for k in ("deter", "stoch")}
    more = {k: given[k] for k in ("action", "noise")}
    found = run(folder, "imagine", here | more)
    then = model.rssm.apply(
        {"params": state.params["rssm"]},
        Latent(**here),
        given["action"],
        given["noise"],
        method="one_step",
    )
    np.testing.assert_allclose(found["deter"], then.deter, atol=1e-5)
    decoded = run(folder, "decode", here)
    assert decoded["image"].shape == (3, 48, 48, 3) and decoded["state"].shape == (3, 3)
    assert (decoded["reward"] == 0).all() and decoded["continue"].shape == (3,)
    out = heads.actor.apply(
        {"params": state.params["actor"]}, Latent(**here).features()
    )
    mean = jnp.tanh(out[:, :2])
    np.testing.assert_allclose(run(folder, "act", here)["push"], mean, atol=1e-5)


def test_the_mode_of_a_discrete_actor():
    actions = (("gear", Space((2,), "int32", 3)),)
    out = jnp.array([[0.0, 2, 1, 5, 0, 1]])
    hot = action_distributions.mode(actions, out)
    assert action_distributions.as_actions(actions, hot)["gear"].tolist() == [[1, 0]]


def test_its_card_names_every_program(exported):
    text = (exported[0] / "README.md").read_text()
    for name in ("encode", "observe", "imagine", "decode", "act"):
        assert f'open("{name}.stablehlo"' in text
    assert "`image` uint8 [48, 48, 3]" in text
