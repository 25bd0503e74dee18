"""An attentive probe that predicts position and velocity of every body from features.

A learned query attends over all tokens of the clip, as in the attentive probes of arXiv
2404.08471 (appendix): the tokens are normalized, the query is not. The supervised twin
trains the same probe together with its encoder.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.evals.readout import fit_readout, in_batches
from core.method import UNWATCHED
from core.nn.positions import sincos

VALUES = 4  # x, y and their velocities


class Readout(nn.Module):
    """Tokens [B, t S, D] -> (x, y, vx, vy) of every body in every frame [B, T, K, 4].

    One query per body serves every time step. A learned bias per head on the distance in
    time steps to a token lets heads compare steps. Keys and values are sums of token and a
    learned vector per cell, so that a query can return the place that it attends to.

    Attributes:
      bodies: K. grid: tokens along time, row, column. frames: T, a multiple of grid[0].
      width, heads: of the attention.
    """

    bodies: int
    grid: tuple[int, int, int]
    frames: int
    width: int = 128
    heads: int = 8

    @nn.compact
    def __call__(self, tokens):
        B, N, _ = tokens.shape
        (t, h, w), K, W, H = self.grid, self.bodies, self.width, self.heads
        assert N == t * h * w, (N, self.grid)
        cells = np.stack(np.unravel_index(np.arange(h * w), (1, h, w)), -1)
        y = nn.LayerNorm(name="norm_tokens")(tokens).reshape(B, t, h * w, -1)

        def per_head(name):
            """Token plus cell vector, split into heads: [B, t, S, heads, d]."""
            place = self.param(
                f"{name}_place", lambda key: jnp.asarray(sincos(cells, W))
            )
            return (nn.Dense(W, name=name)(y) + place).reshape(B, t, h * w, H, W // H)

        k, v = per_head("key"), per_head("value")
        query = self.param("query", nn.initializers.normal(1.0), (K, W))
        q = nn.Dense(W, name="q")(query).reshape(K, H, W // H)
        away = np.arange(t) - np.arange(t)[:, None]
        # Initially, heads attend one step back, to the same step and one step ahead in turn.
        shift = np.arange(H)[:, None] % 3 - 1
        start = -2.0 * np.abs(np.arange(1 - t, t) - shift).astype(np.float32)
        bias = self.param("away", lambda key: jnp.tile(start[:, None], (1, K, 1)))
        bias = bias[:, :, away + t - 1]  # [H, K, t, t]
        scores = jnp.einsum("khd,bushd->bhkus", q, k) * (W // H) ** -0.5
        scores = scores[:, :, :, None] + bias[None, ..., None]
        weights = jax.nn.softmax(scores.reshape(B, H, K, t, N))
        v = v.reshape(B, N, H, W // H)
        z = query + jnp.einsum("bhktn,bnhd->btkhd", weights, v).reshape(B, t, K, W)
        up = nn.gelu(nn.Dense(4 * W, name="up")(nn.LayerNorm(name="norm_mlp")(z)))
        z = z + nn.Dense(W, name="down")(up)
        per = self.frames // t
        out = nn.Dense(per * VALUES, name="read")(nn.LayerNorm(name="norm_out")(z))
        out = out.reshape(B, t, K, per, VALUES).transpose(0, 1, 3, 2, 4)
        return out.reshape(B, self.frames, K, VALUES)


def labels_of(clips) -> np.ndarray:
    """Position and velocity side by side: float32 [B, T, K, 4]."""
    return np.concatenate([clips["position"], clips["velocity"]], -1)


def r2(predicted, true) -> tuple[float, float]:
    """Coefficients of determination (position, velocity), means over bodies and axes.

    predicted, true: [n, T, K, 4]. 1 is exact; 0 is as good as the mean.
    """
    error = np.square(predicted - true).mean((0, 1))
    spread = true.reshape(-1, *true.shape[2:]).var(0)
    score = 1 - error / spread
    return float(score[:, :2].mean()), float(score[:, 2:].mean())


def moments(labels):
    """Mean and deviation [K, 4] of labels [n, T, K, 4] over clips and frames."""
    return labels.mean((0, 1)), labels.std((0, 1)) + 1e-6


def probe(
    encode,
    train,
    validation,
    readout,
    *,
    steps=500,
    batch=64,
    lr=2e-3,
    watch=UNWATCHED,
    what="probe",
):
    """Fit a readout on frozen features of training clips, score it on validation clips.

    Args:
      encode: uint8 video [b, T, H, W, 3] -> features [b, N, D].
      train, validation: dicts of video uint8 [n, T, H, W, 3], position and velocity
        float32 [n, T, K, 2].
      readout: Readout; steps, batch, lr: of its training.
      watch, what: for lines of progress.

    Returns:
      ((position R2, velocity R2), predicted labels [n, T, K, 4] of the validation clips).
    """
    half = lambda video: np.asarray(encode(video), np.float16)  # noqa: E731
    mean, std = moments(labels_of(train))
    features = jnp.asarray(in_batches(half, train["video"], watch=watch, what=what))
    params, _ = fit_readout(
        readout,
        features,
        (labels_of(train) - mean) / std,
        steps=steps,
        batch=batch,
        lr=lr,
        watch=watch,
        what=what,
    )
    del features
    read = functools.partial(read_tokens, readout, params)
    found = in_batches(
        lambda v: read(encode(v)), validation["video"], watch=watch, what=what
    )
    predicted = found * std + mean
    return r2(predicted, labels_of(validation)), predicted


@functools.partial(jax.jit, static_argnums=0)
def read_tokens(readout, params, tokens):
    """The readout's values for tokens [b, N, D], rounded as those it was fitted to."""
    tokens = tokens.astype(jnp.float16).astype(jnp.float32)
    return readout.apply({"params": params}, tokens)
