"""Frozen evaluation on the embedded world: the probe, and what to judge it beside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.base.pictures import draw_points, tile
from core.parallel.layouts import unbox
from jepa import probe
from jepa.model import patchify, standardize

PICTURED = 4


def clips_of(records, count: int) -> dict:
    """The first `count` labelled clips of the world, stacked."""
    items = [records.load(i) for i in range(count)]
    names = ("video", "position", "velocity")
    return {name: np.stack([item[name] for item in items]) for name in names}


def tokens_of(encoder, grid, params, video):
    """Features [b, N, D] of uint8 clips, or raw tubelets when `params` is None."""
    patches = standardize(patchify(video, encoder.patch))
    if params is None:
        return patches
    return encoder.apply({"params": params}, patches, grid=grid)


def make_score(
    encoder, grid, *, train, held, train_clips, held_clips, steps, batch, lr
):
    """score(params) -> ({"position": R2, "velocity": R2}, picture of the reading).

    train, held: records of the world. The clips are drawn once and kept. The last three
    are the probe's training.
    """
    fit = {"steps": steps, "batch": batch, "lr": lr}
    clips = functools.cache(
        lambda: (clips_of(train, train_clips), clips_of(held, held_clips))
    )
    readout = probe.Readout(bodies=train.bodies, grid=grid, frames=train.frames)

    def score(params):
        fitting, judging = clips()
        encode = jax.jit(functools.partial(tokens_of, encoder, grid, params))
        scores, predicted = probe.probe(encode, fitting, judging, readout, **fit)
        names = ("position", "velocity")
        picture = draw(judging, predicted, seconds=1 / train.fps)
        return dict(zip(names, scores, strict=True)), picture

    return score


def make_probe(score):
    """state -> R2 of a probe on the frozen target encoder, its reading as a picture."""

    def evaluate(state):
        scores, picture = score(state.target)
        return {f"trained/{k}": v for k, v in scores.items()} | {"reading": picture}

    return evaluate


def make_baselines(score, init, train_twin, *, seed):
    """state -> R2 of that probe on raw tubelets, untrained encoder, supervised twin.

    The twin has seen as many labelled clips as the state has seen clips.
    """

    def evaluate(state):
        fresh = jax.jit(lambda: unbox(init(jax.random.key(seed))).target)
        untrained = fresh()
        found = {"pixels": None, "untrained": untrained}
        found["twin"] = train_twin(untrained, int(state.step))
        return {
            f"{name}/{k}": v
            for name, params in found.items()
            for k, v in score(params)[0].items()
        }

    return evaluate


def make_twin(encoder, grid, *, source, lr=1e-3, decay=0.01):
    """train(params, steps) -> the encoder trained end to end with the probe on labels.

    source: () -> batches with video, position and velocity.
    """

    def train(params, steps):
        batches = source()
        try:
            return fit_twin(encoder, grid, params, batches, steps, lr, decay)
        finally:
            batches.close()

    return train


def fit_twin(encoder, grid, params, batches, steps, lr, decay):
    """`steps` AdamW updates of encoder and readout on unit-variance labels."""
    batch = batches.next()
    T, K = batch["position"].shape[1:3]
    readout = probe.Readout(bodies=K, grid=grid, frames=T)
    mean, std = probe.moments(probe.labels_of(batch))
    tokens = jnp.zeros((1, int(np.prod(grid)), encoder.width))
    reader = jax.jit(readout.init)(jax.random.key(0), tokens)["params"]
    params = {"encoder": params, "readout": reader}
    rate = optax.cosine_onecycle_schedule(steps, lr, 0.1)
    tx = optax.adamw(rate, weight_decay=decay)

    def loss_fn(params, video, labels):
        tokens = tokens_of(encoder, grid, params["encoder"], video)
        guess = readout.apply({"params": params["readout"]}, tokens)
        return jnp.square(guess - labels).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt, video, labels):
        grads = jax.grad(loss_fn)(params, video, labels)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    params = jax.tree.map(jnp.array, params)  # the caller keeps what it gave
    opt = jax.jit(tx.init)(params)
    for _ in range(steps):
        labels = (probe.labels_of(batch) - mean) / std
        params, opt = step(params, opt, batch["video"], labels)
        batch = batches.next()
    return params["encoder"]


def draw(clips, predicted, seconds):
    """The probe's reading over the first held-out clips."""
    rows = [
        draw_points(
            clips["video"][i],
            clips["position"][i],
            predicted[i, ..., :2],
            true_velocity=clips["velocity"][i],
            predicted_velocity=predicted[i, ..., 2:],
            seconds=seconds,
            scale=max(1, 128 // clips["video"].shape[2]),
        )
        for i in range(PICTURED)
    ]
    return tile(rows)
