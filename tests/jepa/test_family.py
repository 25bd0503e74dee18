"""The comparison of the family: FLOPs against XLA's count, the same clips and questions."""

import functools

import jax
import numpy as np
import pytest
from small import ROOT

from configs import compare
from core.config import load_method
from core.parallel.layouts import unbox
from jepa.evals import patch_readouts, standard
from jepa.nets.model import SIZES, patchify
from jepa.perf import flops
from launch import compare as command
from launch import config as configs


@functools.cache
def made(name):
    """(config, method) of a row of the comparison, without a pipeline of its own."""
    config = compare.get_config(name)
    config.data.workers, config.dtype = 0, "float32"
    return config, load_method(config)


@pytest.mark.parametrize("name", compare.PRESETS)
def test_flops_of_a_step_are_those_that_xla_counts(name):
    """XLA adds elementwise operations, and leaves out gradients that nothing needs."""
    config, method = made(name)
    source = method.source("train", (0, 1))
    batch = source.next()
    source.close()
    # What forecasts take in place of data.
    given = {name: (x.shape[1:], x.dtype) for name, x in batch.items()}
    example = method.tools.example()
    assert given == {name: (x.shape, x.dtype) for name, x in example.items()}
    state = unbox(jax.eval_shape(method.init, jax.random.key(0)))
    counted = jax.jit(method.step).lower(state, batch).cost_analysis()["flops"]
    assert method.costs.flops == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("name", compare.PRESETS)
def test_a_step_of_the_twin_costs_as_much(name):
    """Of all tokens, forward and backward, without the read-out."""
    config, method = made(name)
    width, depth, _, hidden = SIZES["tiny"]
    patch, frames, size = config.encoder.patch, config.data.frames, config.data.size
    space = size // patch[1] * (size // patch[2])
    tokens = frames // patch[0] * space
    segments = (space,) * frames if name == "image" else (tokens,)
    clip = flops.forward(
        tokens=tokens, segments=segments, width=width, depth=depth, hidden=hidden,
        inputs=3 * int(np.prod(patch)),
    )  # fmt: skip
    twin = 3 * clip * config.probe.twin_clips
    assert twin == pytest.approx(method.costs.flops, rel=0.08)


def test_all_methods_have_the_same_clips(monkeypatch):
    given = {}

    def score(**worlds):
        given[len(given)] = worlds

    monkeypatch.setattr(
        standard, "make_score", functools.wraps(standard.make_score)(score)
    )
    for name in compare.PRESETS:
        load_method(compare.get_config(name))
    for world in ("train", "validation"):
        first, *others = (x[world] for x in given.values())
        assert len(others) == 4 and all(other == first for other in others)
    fields = [
        x.keys() - {"encoder", "grid", "train", "validation"} for x in given.values()
    ]
    numbers = [
        {k: x[k] for k in names}
        for x, names in zip(given.values(), fields, strict=True)
    ]
    assert all(x == numbers[0] for x in numbers) and numbers[0]["tubelet"] == (
        2,
        16,
        16,
    )


def test_tokens_of_a_tubelet_are_merged():
    """Merged patches hold the pixels of the tubelet, and no others."""
    video = np.random.default_rng(0).integers(0, 1 << 24, (2, 4, 32, 32, 3))
    grid, merged = (4, 4, 4), (2, 2, 2)
    factor = standard.tokens_in((2, 16, 16), (1, 8, 8), grid)
    assert factor == (2, 2, 2)
    small = np.asarray(patchify(video, (1, 8, 8)))
    found = np.asarray(standard.merge(small, merged, factor))
    wanted = np.asarray(patchify(video, (2, 16, 16)))
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(np.sort(found), np.sort(wanted))
    # Time, row, column: the second token lies right of the first one.
    np.testing.assert_array_equal(found[:, 0, 192:384], small[:, 1])
    with pytest.raises(ValueError, match=r"probe.tubelet is \(2, 12, 16\)"):
        standard.tokens_in((2, 12, 16), (1, 8, 8), grid)


def test_cells_are_sorted_by_token():
    """A cell's label is its place, from which its token and place in that follow."""
    labels = np.arange(4 * 8 * 8).reshape(1, -1)
    factor = patch_readouts.cells_of((2, 16, 16), (1, 8, 8))
    assert factor == (2, 2, 2)
    found = patch_readouts.by_token(labels, (2, 4, 4), factor).reshape(2, 4, 4, 2, 2, 2)
    for t, h, w, a, b, c in (
        (0, 0, 0, 0, 0, 1),
        (1, 2, 3, 1, 0, 1),
        (0, 3, 1, 1, 1, 0),
    ):
        place = ((2 * t + a) * 8 + 2 * h + b) * 8 + 2 * w + c
        assert found[t, h, w, a, b, c] == place
    with pytest.raises(ValueError, match=r"physical.cell is \(1, 5, 8\)"):
        patch_readouts.cells_of((2, 16, 16), (1, 5, 8))


def test_a_twin_is_trained_once_a_step():
    trained = []

    def train(params, step, watch):
        trained.append(step)
        return params + step

    class State:
        step = 3

    twin = standard.once_a_step(train, lambda: 10)
    assert twin(State(), None) == twin(State(), None) == 13 and trained == [3]
    State.step = 4
    assert twin(State(), None) == 14 and trained == [3, 4]


def test_steps_are_those_of_the_budget():
    """The command names a config whose steps have as many FLOPs, up to half an interval."""
    place = f"{ROOT}/configs/compare.py:levjepa"
    sizes = {"tflops": 0.5, "points": 4, "runs": "runs"}
    words = command.command(place, 1, **sizes).split()
    found = configs.load(place, [x for x in words if x.startswith("--config.")])
    each, last = found.eval_steps.probe, found.steps
    assert last == 4 * each and found.seed == 1 and not found.physical.twin
    cost = made("levjepa")[1].costs.flops
    assert abs(last * cost - 0.5e12) <= 2 * cost
    assert words[-1] == "--workdir=runs/levjepa_seed1"
    with pytest.raises(ValueError, match="--tflops is 0.01, but --points steps"):
        command.command(place, 0, **sizes | {"tflops": 0.01})


@pytest.mark.parametrize("name", ["pong_v2_1", "pong_image", "pong_atari"])
def test_a_game_is_read_by_its_objects(name):
    place = f"{ROOT}/configs/compare.py:{name}"
    words = command.command(place, 1, tflops=0.5, points=2, runs="runs").split()
    found = configs.load(place, [x for x in words if x.startswith("--config.")])
    assert found.steps == 2 * found.eval_steps.objects
    assert found.objects.encoders == ("trained", "untrained")
    assert found.eval_steps.probe == found.eval_steps.dense == -1
    assert found.data.source.endswith("camera:data/pong") and found.data.fps == 15
