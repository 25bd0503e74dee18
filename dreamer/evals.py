"""How well a world model dreams: open loop, against truth and against standing still."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.data.trajectories import as_steps
from dreamer import world_model

PICTURED = 6
AHEAD = (1, 2, 5, 10, 15, 30)  # steps into a dream at which it is judged
BORDER = 2
GREEN, RED = (40, 180, 60), (220, 60, 40)


def dream(model, params, batch, key, *, context: int):
    """Follow the first `context` steps of a batch [B, T, ...], dream the rest.

    Returns:
      states [T, B, ...]: observed, then dreamt with the actions that were taken.
    """
    keys = jax.random.split(key)
    B, T = batch["is_first"].shape
    seen = {k: x[:, :context] for k, x in batch.items()}
    first = model.rssm.first(B)
    states, _ = world_model.observe(model, params, first, seen, keys[0])
    actions = batch["action"].swapaxes(0, 1)[context:]
    last = jax.tree.map(lambda x: x[-1], states)
    dreamt = model.rssm.apply(
        {"params": params["rssm"]},
        last,
        actions,
        jax.random.split(keys[1], T - context),
        method="follow",
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), states, dreamt)


def make_dream(model, held, *, context):
    """state -> error of dreamt observations by step, and pictures of dreams.

    held: () -> batch [B, T, ...] of trajectories that training never sees.
    """

    @jax.jit
    def run(params, batch):
        states = dream(model, params, batch, jax.random.key(0), context=context)
        return world_model.decode(model, params, states)

    def evaluate(state):
        batch = held()
        predicted = jax.tree.map(lambda x: x.swapaxes(0, 1), run(state.params, batch))
        found = {}
        for name, space in model.spaces:
            if not space.is_image:
                continue
            true = batch[name].astype(np.float32) / 255
            found |= errors(name, np.asarray(predicted[name]), true, context)
            found[f"dream_{name}"] = film(
                np.asarray(predicted[name][:PICTURED]), true[:PICTURED], context
            )
        return found

    return evaluate


def errors(name, predicted, true, context):
    """Mean squared error 1, 5, 10, ... steps into the dream; "still" repeats a frame."""
    found = {}
    still = np.broadcast_to(true[:, context - 1 : context], true.shape)
    for ahead in AHEAD:
        t = context - 1 + ahead
        if t < true.shape[1]:
            for who, x in (("dream", predicted), ("still", still)):
                gap = float(np.square(x[:, t] - true[:, t]).mean())
                found[f"{who}/{name}_{ahead}"] = gap
    return found


def film(predicted, true, context):
    """Truth, prediction and their difference below each other, time to the right."""
    error = (predicted - true + 1) / 2
    rows = []
    for one in zip(true, predicted, error, strict=True):
        for frames in one:
            frames = (np.clip(frames, 0, 1) * 255).astype(np.uint8)
            if frames.shape[-1] != 3:
                frames = np.repeat(frames[..., :1], 3, -1)
            framed = np.pad(frames, ((0, 0), *[(BORDER, BORDER)] * 2, (0, 0)))
            for t, frame in enumerate(framed):
                colour = GREEN if t < context else RED
                frame[:BORDER] = frame[-BORDER:] = colour
                frame[:, :BORDER] = frame[:, -BORDER:] = colour
            rows.append(np.concatenate(list(framed), 1))
    return np.concatenate(rows)


def make_positions(model, train, held, *, context, clips, read_clips):
    """state -> how far off body positions are that are read from dreams, by step.

    A ridge regression reads positions from states that observed `read_clips` clips of
    the world `train`. On `clips` of `held` it reads dreamt states; "still" is the true
    position in the last frame seen. Both in sides of the frame, root mean square; and
    for how many steps on end the dream is the better of the two.
    """

    @functools.cache
    def worlds():
        return stack(train, read_clips), stack(held, clips)

    @functools.partial(jax.jit, static_argnames="context")
    def features(params, batch, context):
        states = dream(model, params, batch, jax.random.key(0), context=context)
        return states.features().astype(jnp.float32).swapaxes(0, 1)

    def evaluate(state):
        (fit, fit_place), (test, place) = worlds()
        T = place.shape[1]
        whole = [
            np.asarray(
                features(state.params, {k: x[i : i + 64] for k, x in fit.items()}, T)
            )
            for i in range(0, len(fit_place), 64)
        ]
        read = ridge(np.concatenate(whole), fit_place)
        guess = read(np.asarray(features(state.params, test, context)))
        still = np.broadcast_to(place[:, context - 1 : context], place.shape)
        gaps = {
            who: np.sqrt(np.square(x - place).mean((0, 2)))[context:]
            for who, x in (("dream", guess), ("still", still))
        }
        better = gaps["dream"] < gaps["still"]
        found = {
            f"{who}/position_{ahead}": float(gap[ahead - 1])
            for who, gap in gaps.items()
            for ahead in AHEAD
            if ahead <= len(gap)
        }
        return found | {"steps_dreamt_better": float(np.cumprod(better).sum())}

    return evaluate


def stack(world, count):
    """Windows of the first clips, and where the bodies are [n, T, K 2]."""
    items = [world.load(i) for i in range(count)]
    steps = [as_steps(item) for item in items]
    batch = {k: np.stack([s[k] for s in steps]) for k in steps[0]}
    place = np.stack([item["position"] for item in items])
    return batch, place.reshape(*place.shape[:2], -1)


def ridge(x, y, *, penalty=1e-3):
    """Least squares from x [n, T, F] to y [n, T, P]: a function of such x."""
    mean, std = x.mean((0, 1)), x.std((0, 1)) + 1e-3

    def inputs(x):
        x = (x - mean) / std
        return np.concatenate([x, np.ones_like(x[..., :1])], -1).astype(np.float64)

    a = inputs(x).reshape(-1, x.shape[-1] + 1)
    b = y.reshape(-1, y.shape[-1])
    square = a.T @ a + penalty * len(a) * np.eye(a.shape[1])
    weights = np.linalg.solve(square, a.T @ b)
    return lambda x: inputs(x) @ weights
