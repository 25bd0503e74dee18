"""How well a world model dreams: open loop, against truth and against standing still."""

from functools import partial
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np

from core.base.pictures import rgb
from core.evals.readout import fit_readout, in_batches
from dreamer import world_model
from dreamer.layers import Head
from dreamer.nets import meant

PICTURED = 6
AHEAD = (1, 2, 5, 10, 15, 30)  # steps into a dream at which it is judged
BORDER = 2
PART = 64  # trajectories at a time
PLACE = "log/position"
READER, READ_AT_ONCE = 256, 512  # units of its layers, rows of an update
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
    gumbel = world_model.noise_of(model, seen, keys[0])
    states, _ = world_model.observe(model, params, first, seen, gumbel)
    actions = batch["action"].swapaxes(0, 1)[context:]
    last = jax.tree.map(lambda x: x[-1], states)
    dreamt = model.rssm.apply(
        {"params": params["rssm"]},
        last,
        actions,
        keys[1],
        method="follow",
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), states, dreamt)


def make_dream(model, held, known, *, context, read_steps):
    """state -> how far dreams are from what happened, by step, and pictures of dreams.

    held: () -> batch [B, T, ...] of trajectories that training never sees. known: () ->
    batch on which body positions are learnt to be read, where trajectories tell them.
    """

    @jax.jit
    def run(params, batch):
        states = dream(model, params, batch, jax.random.key(0), context=context)
        out = world_model.decode(model, params, states), states.features()
        return jax.tree.map(lambda x: x.swapaxes(0, 1), out)

    @jax.jit
    def watch(params, batch):
        first = model.rssm.first(len(batch["is_first"]))
        gumbel = world_model.noise_of(model, batch, jax.random.key(0))
        states, _ = world_model.observe(model, params, first, batch, gumbel)
        return states.features().swapaxes(0, 1)

    def evaluate(state):
        batch, found = held(), {}
        predicted, dreamt = in_batches(partial(run, state.params), batch, PART)
        # No dream is held to the episode after the one it began in.
        same = ~np.logical_or.accumulate(batch["is_first"][:, context:], 1)
        for name, space in model.spaces:
            if space.is_discrete:
                continue
            true = batch[name] / np.float32(255 if space.is_image else 1)
            said = np.asarray(meant(predicted[name], space))
            found |= errors(name, said, true, same)
            if space.is_image:
                shown = panels(said[:PICTURED], true[:PICTURED], context)
                found |= {f"dream_{name}": strip(shown), f"film_{name}": film(shown)}
        if PLACE in batch:
            x = in_batches(partial(watch, state.params), known(), PART)
            read = fit_reader(x, flat(known()[PLACE]), steps=read_steps)
            found |= positions(read(dreamt), flat(batch[PLACE]), context)
        return found

    return evaluate


def flat(x):
    return x.reshape(*x.shape[:2], -1)


def errors(name, predicted, true, same):
    """Mean squared error 1, 2, 5, ... steps into the dream; "still" repeats a step.

    same: bool [n, H], which of the last H of [n, T, ...] steps, those dreamt, count.
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
    """How far off positions [n, T, P] are that were read from dreams, by step.

    "still" is the true position in the last frame seen. Both in sides of the frame, root
    mean square; and for how many steps on end, at most, the dream is the better.
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
    """How often on end `yes` is true, at most."""
    return max((len(list(run)) for value, run in groupby(yes) if value), default=0)


def panels(predicted, true, context):
    """Truth, dream and difference [n, 3, T, h, w, 3] in frames that tell seen from dreamt."""
    error = (predicted - true + 1) / 2
    x = rgb(np.stack([true, predicted, error], 1))
    x = (np.clip(x, 0, 1) * 255).astype(np.uint8)
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), *[(BORDER, BORDER)] * 2, (0, 0)))
    for t in range(x.shape[2]):
        colour, frame = GREEN if t < context else RED, x[:, :, t]
        frame[..., :BORDER, :, :] = frame[..., -BORDER:, :, :] = colour
        frame[..., :, :BORDER, :] = frame[..., :, -BORDER:, :] = colour
    return x


def strip(x):
    """Panels below each other, time to the right: [n 3 h, T w, 3]."""
    n, rows, T, h, w, _ = x.shape
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n * rows * h, T * w, 3)


def film(x):
    """Rows of panels below each other, trajectories side by side: [T, 3 h, n w, 3]."""
    n, rows, T, h, w, _ = x.shape
    return x.transpose(2, 1, 3, 0, 4, 5).reshape(T, rows * h, n * w, 3)


def fit_reader(x, y, *, steps):
    """What reads y [n, T, P] from x [n, T, F]: a function of such x, of two layers.

    More than linear, for a place is told by several categorical latents together.
    """
    mean, std = x.mean((0, 1)), x.std((0, 1)) + 1e-3
    rows, true = ((x - mean) / std).reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    head = Head(2, READER, true.shape[1:])
    params, _ = fit_readout(head, rows, true, steps=steps, batch=READ_AT_ONCE, lr=2e-3)
    return lambda x: np.asarray(head.apply({"params": params}, (x - mean) / std))
