"""The training step of V-JEPA: loss against plain numpy, update against its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import plain_vjepa
import pytest

from core import optim
from core.parallel.layouts import unbox
from jepa.inputs.masks import Masker, Pattern
from jepa.losses.masked import spread
from jepa.nets.model import MEAN, STD, Encoder, Predictor
from jepa.pretrain import State, make_init, make_loss, make_prepare, make_step
from jepa.weights.meta_names import to_theirs

GRID = (2, 4, 4)
SIZE = {"width": 24, "depth": 2, "heads": 2, "hidden": 48}
NETWORK = SIZE | {"positions": "tiled", "remat": "block"}
ENCODER = Encoder(**NETWORK, patch=(1, 4, 4))
PREDICTOR = Predictor(**NETWORK, out=24, mask_tokens=2)
PATTERNS = (Pattern(3, (0.3, 0.3), context=8, target=9), Pattern(1, (0.5, 0.5), 10, 7))
MASKER = Masker(PATTERNS, GRID, 3, 0, "cells")


@pytest.fixture(scope="module")
def drawn():
    """(params, target, batch): weights and mask tokens random, some budgets padded."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(make_init(ENCODER, PREDICTOR, grid=GRID), jax.random.key(0))

    def values(tree):
        return jax.tree.map(
            lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), unbox(tree)
        )

    items = [
        MASKER({"video": rng.integers(0, 256, (2, 16, 16, 3), np.uint8)}, i, rng)
        for i in range(3)
    ]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    assert not batch["target_valid"].all() and not batch["context_valid"].all()
    return values(shapes.params), values(shapes.target), batch


def alone(params, target, batch, use):
    """Sums of errors and counts per pattern, sample by sample, without padding, in numpy."""
    sums, counts = np.zeros(2), np.zeros(2)
    encoder = to_theirs(params["encoder"], ENCODER)
    predictor = to_theirs(params["predictor"], PREDICTOR)
    heads = {"heads": SIZE["heads"]}
    for b in range(3):
        clip = (batch["video"][b] / 255 - MEAN) / STD
        truth = plain_vjepa.encoder(to_theirs(target, ENCODER), clip, **heads)
        truth = plain_vjepa.norm(None, None, truth, 1e-5)
        starts = {"context": 0, "target": 0}
        for p in range(2):
            index = {}
            for name in starts:
                here = slice(starts[name], starts[name] + MASKER.sizes(name)[p])
                valid = batch[f"{name}_valid"][b, here]
                index[name] = batch[name][b, here][valid]
                starts[name] = here.stop
            seen = plain_vjepa.encoder(encoder, clip, keep=index["context"], **heads)
            guess = plain_vjepa.predictor(
                predictor, seen, *index.values(), GRID, token=use[p], **heads
            )
            error = np.abs(guess - truth[index["target"]])
            sums[p] += error.mean(-1).sum()
            counts[p] += error.shape[0]
    return sums, counts


def test_motion_takes_its_share_of_the_loss(drawn):
    _, _, batch = drawn
    plain = make_prepare(MASKER)(batch, jax.random.key(0))["target_weight"]
    moving = make_prepare(MASKER, patch=ENCODER.patch, motion=1.0)
    still = {**batch, "video": jnp.zeros_like(batch["video"])}
    same = np.testing.assert_allclose
    same(moving(still, jax.random.key(0))["target_weight"], plain, rtol=1e-6)
    # One pixel flashes in the first tubelet of the first clip: all weight is there, and at
    # later times of its place, which differ from the mean of the clip too.
    flash = {**batch, "video": still["video"].at[0, 0, 0, 0].set(255)}
    weight = np.asarray(moving(flash, jax.random.key(0))["target_weight"])
    cells = GRID[1] * GRID[2]
    there = (np.asarray(batch["target"]) % cells == 0) & (np.asarray(plain) > 0)
    there[1:] = False
    ends = np.cumsum(MASKER.sizes("target"))
    for found, hit, before in zip(
        np.split(weight, ends[:-1], 1), np.split(there, ends[:-1], 1),
        np.split(np.asarray(plain), ends[:-1], 1), strict=True,
    ):  # fmt: skip
        same(found.sum(), before.sum(), rtol=1e-5)
        if hit.any():
            assert (found[~hit] == 0).all() and (found[hit] > 0).all()


def loss_of(params, target, batch, **options):
    """(loss, metrics) of a batch as the step computes them."""
    key, loss_fn = jax.random.key(0), make_loss(ENCODER, PREDICTOR, MASKER, **options)
    batch = make_prepare(MASKER)(batch, key)
    total, (metrics, _) = jax.jit(loss_fn)(params, target, batch, key)
    return total, metrics


@pytest.mark.parametrize("use", [(0, 0), (0, 1)])
def test_loss_is_that_of_samples_alone(drawn, use):
    params, target, batch = drawn
    total, metrics = loss_of(params, target, batch, mask_tokens=use)
    sums, counts = alone(params, target, batch, use)
    terms = sums / counts
    found = [metrics[f"loss_pattern{i}"] for i in range(2)]
    np.testing.assert_allclose(found, terms, rtol=1e-4)
    np.testing.assert_allclose(total, terms.mean(), rtol=1e-4)
    for i in range(2):
        share = counts[i] / 3 / np.prod(GRID)
        np.testing.assert_allclose(metrics[f"target_ratio{i}"], share, rtol=1e-6)


def test_extra_terms_are_added_with_their_weights(drawn):
    key = jax.random.key(0)

    def total(**weights):
        return loss_of(*drawn, mask_tokens=(0, 0), **weights)

    plain, one, two = total(), total(vicreg=0.5), total(vicreg=1.0, sigreg=0.1)
    extra = one[0] - plain[0]
    assert extra > 0
    with_both = two[0] - plain[0] - 2 * extra
    np.testing.assert_allclose(with_both, 0.1 * two[1]["sigreg"], rtol=1e-3)
    features = jnp.zeros((2, 3, 4)), jnp.ones((2, 3), bool), jnp.zeros((2, 3), int)
    assert spread(*features, key, tokens=5, sigreg_weight=0, vicreg_weight=0) == (0, {})


def toy(params, target, batch, key):
    """A loss whose gradient is the batch itself."""
    parts = jax.tree.map(lambda p, g: (p * g).sum(), params, batch["grads"])
    total = sum(jax.tree.leaves(parts))
    return total, ({"loss": total, "noise": jax.random.normal(key)}, {})


NUMBERS = {
    "lr": lambda s: 0.1 / s,
    "decay": lambda s: 0.01 * s,
    "momentum": lambda i: 0.5 + 0.2 * i,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "accumulate": 1,
    "prepare": lambda batch, key: batch,
    "dtype": jnp.float32,
    "seed": 0,
}
FIRST = {
    "encoder": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)},
    "predictor": {"kernel": jnp.full((3, 1), 2.0)},
}


def like(key):
    return start()


def start():
    zero = jnp.zeros((), jnp.int32)
    return State(zero, FIRST, FIRST["encoder"], optim.adam_moments(FIRST), zero)


def grads(scale=1.0):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: scale * rng.standard_normal(x.shape), FIRST)


def test_update_is_adamw_then_ema():
    step = jax.jit(make_step(like, toy, **NUMBERS, clip_norm=0.0, clip_steps=0))
    state, (params, opt, target) = start(), (FIRST, start().opt, FIRST["encoder"])
    noise = set()
    for s in range(1, 4):
        state, metrics = step(state, {"grads": grads(s)})
        rates = {"lr": 0.1 / s, "decay": 0.01 * s}
        params, opt = optim.adamw(grads(s), opt, params, **rates)
        target = optim.ema(target, params["encoder"], 0.5 + 0.2 * (s - 1))
        noise.add(float(metrics["noise"]))
    for ours, theirs in ((state.params, params), (state.target, target)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs
        )
    assert int(state.step) == 3 and len(noise) == 3
    squares = sum(np.square(g).sum() for g in jax.tree.leaves(grads(3)))
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(squares), rtol=1e-5)


def test_encoder_and_predictor_are_clipped_separately_after_warmup():
    step = jax.jit(make_step(like, toy, **NUMBERS, clip_norm=1.0, clip_steps=1))
    state, batch = start(), {"grads": grads(100.0)}
    batch["grads"]["predictor"] = {"kernel": np.full((3, 1), 0.1)}
    moments = []
    for _ in range(2):
        state, _ = step(state, batch)
        moments.append(jax.device_get(state.opt.mu))
    free = jax.tree.map(lambda m: m / 0.1, moments[0])
    clipped = jax.tree.map(lambda a, b: (b - 0.9 * a) / 0.1, *moments)
    norm = lambda tree: np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(tree)))  # noqa: E731
    np.testing.assert_allclose(norm(free), norm(batch["grads"]), rtol=1e-4)
    np.testing.assert_allclose(norm(clipped["encoder"]), 1, rtol=1e-3)
    np.testing.assert_allclose(
        clipped["predictor"]["kernel"], batch["grads"]["predictor"]["kernel"], rtol=1e-3
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_update_that_is_not_finite_leaves_no_trace(bad):
    step = jax.jit(make_step(like, toy, **NUMBERS, clip_norm=1.0, clip_steps=0))
    state, _ = step(start(), {"grads": grads()})
    before = jax.device_get(state)
    for count in (1, 2):
        state, metrics = step(state, {"grads": grads(bad)})
        assert int(state.bad_steps) == int(metrics["bad_steps"]) == count
        assert int(state.step) == 1 + count
        for name in ("params", "target", "opt"):
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(state, name),
                getattr(before, name),
            )
    state, _ = step(state, {"grads": grads()})
    assert int(state.bad_steps) == 0
    assert (
        np.asarray(state.params["encoder"]["kernel"])
        != before.params["encoder"]["kernel"]
    ).any()
