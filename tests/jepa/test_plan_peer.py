"""The comparison of plans with another program: equal costs, first plan left out, errors."""

import json

import jax
import numpy as np
import pytest
import small

from core.config import resolve_auto
from core.perf import bench
from core.section import Section
from jepa.perf import plan_peer
from jepa.worlds.latent_plan import LatentGoal
from jepa.worlds.lewm_networks import make_networks, make_world
from launch.config import load

VIT = {"kind": "vit", "patch": 4, "width": 16, "depth": 2, "heads": 2, "hidden": 32}
VIT |= {"attention": "plain", "remat": "none"}


@pytest.mark.parametrize("kind, window", [("conv", 1), ("vit", 3)])
def test_costs_in_pytorch_are_ours(kind, window, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(
        torch, "compile", lambda f, **how: f
    )  # the same numbers, sooner
    from jepa.perf import plan_peer_torch

    config = small.lewm(dtype="float32", predictor__depth=2)
    config.encoder.channels = (4, 8)
    section = Section(resolve_auto(config.to_dict(), "cpu"))
    if kind == "vit":
        section = section.replace(encoder=VIT)
    networks = make_networks(section, width=2)
    weights = plan_peer.random_weights(networks)
    given = plan_peer.problems(2, 16, 4, 4)
    about = {name: section[name].to_dict() for name in ("encoder", "predictor")}
    about["encoder"]["eps"] = getattr(networks.encoder, "eps", 0.0)
    about |= {"window": window, "skip": 2, "candidates": 6, "best": 2, "rounds": 2}
    plan_peer.write_problems(tmp_path, weights, given, about)
    program = plan_peer_torch.Program(tmp_path)
    context = {"image": given["image"][:, None], "goal": given["goal"]}
    context["blocks"] = np.zeros((2, 0, 4), np.float32)
    goal = LatentGoal(make_world(networks, window=window))
    theirs = program.check().numpy()
    assert plan_peer.gap_of_costs(goal, weights, context, given, theirs) < 1e-4
    assert np.ptp(theirs) > 1e-3 * np.abs(theirs).max()
    with pytest.raises(ValueError, match="costs of the peer differ by 0.1 of ours"):
        plan_peer.gap_of_costs(goal, weights, context, given, 1.1 * theirs)
    assert program.plan().shape == (2, 4, 4) and torch.isfinite(program.plan()).all()


def test_weights_are_written_by_path(tmp_path):
    networks = make_networks(
        Section(resolve_auto(small.lewm().to_dict(), "cpu")), width=2
    )
    weights = plan_peer.random_weights(networks)
    plan_peer.write_problems(
        tmp_path, weights, plan_peer.problems(2, 16, 2, 4), {"a": 1}
    )
    with np.load(tmp_path / "plan.npz") as found:
        kernel = weights["params"]["predictor"]["block0"]["modulation"]["kernel"]
        np.testing.assert_array_equal(
            found["predictor/block0/modulation/kernel"], kernel
        )
        assert found["norms/projector/var"].shape == (16,)
        leaves = jax.tree.leaves(weights)
        assert len(found.files) == len(leaves) + 3 and min(map(np.ptp, leaves)) > 0
    assert json.loads((tmp_path / "plan.json").read_text())["a"] == 1


def test_the_first_plan_counts_as_compilation():
    seconds = [(9.0, 50.0), (2.0, 6.0), (4.0, 6.0), (1.0, 9.0)]
    rows = [
        tuple({"seconds": x, "cpu_seconds": 2 * x, "peak_kib": 3} for x in pair)
        for pair in seconds
    ]
    found = plan_peer.summarize(rows)
    assert (found["plan_seconds_median"], found["ratio_of_medians"]) == (2, 3)
    assert (found["ratio_of_minima"], found["plan_cpu_seconds_min"]) == (6, 2)


def test_a_comparison_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no benchmark with a peer 'data'.*plan, step"):
        bench.compare(load("configs/jepa.py:tiny"), "torch", what="data", steps=2)
    with pytest.raises(
        ValueError, match="method jepa.ac plans, but its peer is that of"
    ):
        bench.compare(load("configs/ac.py:two_rooms"), "torch", what="plan", steps=2)
    with pytest.raises(
        ValueError, match="--peer=transformers makes no plans; use torch"
    ):
        config = load("configs/lewm.py:two_rooms")
        bench.compare(config, "transformers", what="plan", steps=2)
    with pytest.raises(ValueError, match="method dreamer.offline has no peer for step"):
        bench.compare(load("configs/dreamer.py:tiny"), "torch", steps=2)
    with pytest.raises(ValueError, match="--peer=stable_worldmodel has no step of"):
        bench.compare(load("configs/jepa.py:tiny"), "stable_worldmodel", steps=2)
