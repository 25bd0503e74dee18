"""Open-loop prediction of a world model ("dreams"), compared with a static baseline."""

from functools import partial
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np

from core.base.pictures import rgb
from core.evals.readout import fit_readout, in_batches
from core.method import UNWATCHED
from dreamer import world_model
from dreamer.layers import Head
from dreamer.nets import decoded_values

PICTURED = 6  # trajectories
AHEAD = (1, 2, 5, 10, 15, 30)  # predicted steps at which errors are reported
BORDER = 2  # pixels around each frame
PART = 64  # trajectories per call
PLACE = "log/position"  # true positions of bodies, if the trajectories have them
READER, READER_BATCH = 256, 512  # units of the readout's layers, rows of an update
GREEN, RED = (40, 180, 60), (220, 60, 40)


def dream(model, params, batch, key, *, context: int):
    """Observe the first `context` steps of a batch [B, T, ...], predict the rest.

    Returns:
      states [T, B, ...]: posterior ones, then predicted ones under the recorded actions.
    """
    keys = jax.random.split(key)
    B, T = batch["is_first"].shape
    seen = {k: x[:, :context] for k, x in batch.items()}
    first = model.rssm.first(B)
    gumbel = world_model.noise_of(model, seen, keys[0])
    states, _ = world_model.observe(model, params, first, seen, gumbel)
    actions = batch["action"].swapaxes(0, 1)[context:]
    last = jax.tree.map(lambda x: x[-1], states)
    predicted = model.rssm.apply(
        {"params": params["rssm"]},
        last,
        actions,
        keys[1],
        method="follow",
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), states, predicted)


def make_dream(model, validation, train, *, context, read_steps):
    """An evaluation: state -> prediction errors by step, and pictures of predictions.

    validation: () -> batch [B, T, ...] of trajectories that are not trained on.
    train: () -> batch that the readout of body positions is fitted to for `read_steps`
    updates, if trajectories have positions.
    """

    @jax.jit
    def run(params, batch):
        states = dream(model, params, batch, jax.random.key(0), context=context)
        out = world_model.decode(model, params, states), states.features()
        return jax.tree.map(lambda x: x.swapaxes(0, 1), out)

    @jax.jit
    def observe(params, batch):
        first = model.rssm.first(len(batch["is_first"]))
        gumbel = world_model.noise_of(model, batch, jax.random.key(0))
        states, _ = world_model.observe(model, params, first, batch, gumbel)
        return states.features().swapaxes(0, 1)

    def evaluate(state, watch):
        batch, found = validation(), {}
        predicted, features = in_batches(
            partial(run, state.params), batch, PART, watch=watch, what="dream"
        )
        # Predictions are compared until the episode ends.
        same = ~np.logical_or.accumulate(batch["is_first"][:, context:], 1)
        for name, space in model.spaces:
            if space.is_discrete:
                continue
            true = batch[name] / np.float32(255 if space.is_image else 1)
            values = np.asarray(decoded_values(predicted[name], space))
            found |= errors(name, values, true, same)
            if space.is_image:
                shown = panels(values[:PICTURED], true[:PICTURED], context)
                found |= {f"dream_{name}": strip(shown), f"film_{name}": film(shown)}
        if PLACE in batch:
            x = in_batches(
                partial(observe, state.params),
                train(),
                PART,
                watch=watch,
                what="states",
            )
            read = fit_reader(x, flat(train()[PLACE]), steps=read_steps, watch=watch)
            found |= positions(read(features), flat(batch[PLACE]), context)
        return found

    return evaluate


def flat(x):
    """[n, T, ...] -> [n, T, P]."""
    return x.reshape(*x.shape[:2], -1)


def errors(name, predicted, true, same):
    """Mean squared errors of the prediction ("dream") and of the last frame ("still").

    {"dream/NAME_AHEAD", "still/NAME_AHEAD"} for each of AHEAD steps after the context.

    Args:
      predicted, true: [n, T, ...].
      same: bool [n, H]: which of the last H steps, the predicted ones, still belong to the
        episode of the context.
    """
    found, context = {}, true.shape[1] - same.shape[1]
    still = np.broadcast_to(true[:, context - 1 : context], true.shape)
    for ahead in AHEAD:
        if ahead <= same.shape[1] and (rows := same[:, ahead - 1]).any():
            t = context - 1 + ahead
            for who, x in (("dream", predicted), ("still", still)):
                gap = float(np.square(x[rows, t] - true[rows, t]).mean())
                found[f"{who}/{name}_{ahead}"] = gap
    return found


def positions(read, true, context):
    """Errors of positions [n, T, P] read from predicted states, by step.

    "still" is the true position in the last observed frame. Root mean squares, in sides of
    the frame. "steps_dreamt_better": the longest run of steps whose prediction is better.
    """
    still = np.broadcast_to(true[:, context - 1 : context], true.shape)
    gaps = {
        who: np.sqrt(np.square(x - true).mean((0, 2)))[context:]
        for who, x in (("dream", read), ("still", still))
    }
    found = {
        f"{who}/position_{ahead}": float(gap[ahead - 1])
        for who, gap in gaps.items()
        for ahead in AHEAD
        if ahead <= len(gap)
    }
    return found | {"steps_dreamt_better": longest(gaps["dream"] < gaps["still"])}


def longest(yes) -> int:
    """Length of the longest run of true values."""
    return max((len(list(run)) for value, run in groupby(yes) if value), default=0)


def panels(predicted, true, context):
    """Truth, prediction and difference, uint8 [n, 3, T, h, w, 3].

    Borders are green for observed steps, red for predicted ones.
    """
    error = (predicted - true + 1) / 2
    x = rgb(np.stack([true, predicted, error], 1))
    x = (np.clip(x, 0, 1) * 255).astype(np.uint8)
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), *[(BORDER, BORDER)] * 2, (0, 0)))
    for t in range(x.shape[2]):
        color, frame = GREEN if t < context else RED, x[:, :, t]
        frame[..., :BORDER, :, :] = frame[..., -BORDER:, :, :] = color
        frame[..., :, :BORDER, :] = frame[..., :, -BORDER:, :] = color
    return x


def strip(x):
    """Panels [n, 3, T, h, w, 3] as one picture, time to the right: [n 3 h, T w, 3]."""
    n, rows, T, h, w, _ = x.shape
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n * rows * h, T * w, 3)


def film(x):
    """Panels [n, 3, T, h, w, 3] as a film, trajectories side by side: [T, 3 h, n w, 3]."""
    n, rows, T, h, w, _ = x.shape
    return x.transpose(2, 1, 3, 0, 4, 5).reshape(T, rows * h, n * w, 3)


def fit_reader(x, y, *, steps, watch=UNWATCHED):
    """A two-layer readout fitted to predict y [n, T, P] from x [n, T, F]: x -> y.

    Not linear, since a position is encoded jointly by several categorical latents.
    """
    mean, std = x.mean((0, 1)), x.std((0, 1)) + 1e-3
    rows, true = ((x - mean) / std).reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    head = Head(2, READER, true.shape[1:])
    params, _ = fit_readout(
        head, rows, true, steps=steps, batch=READER_BATCH, lr=2e-3, watch=watch
    )
    return lambda x: np.asarray(head.apply({"params": params}, (x - mean) / std))
