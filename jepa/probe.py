"""A frozen attentive probe: reads position and velocity of every body from features.

One learned query per body and time step attends over all tokens of the clip, as in the
attentive probes of arXiv 2404.08471 (appendix): the query is not normalised, the tokens
are. The supervised twin trains the same probe and its encoder together.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from core.evals.readout import fit_readout, in_batches
from core.nn.positions import sincos

VALUES = 4  # x, y and their velocities


class Readout(nn.Module):
    """Tokens [B, t S, D] -> (x, y, vx, vy) of every body in every frame [B, T, K, 4].

    One query per body serves every time step: what changes with the step is a learned
    bias on how many steps before or after it a token is, so that heads can compare then
    and now. Keys and values see the token and a learned vector for its cell, so that a
    query can answer with where it looked.
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
            """Token and cell, cut into heads: [B, t, S, heads, d]."""
            place = self.param(
                f"{name}_place", lambda key: jnp.asarray(sincos(cells, W))
            )
            return (nn.Dense(W, name=name)(y) + place).reshape(B, t, h * w, H, W // H)

        k, v = per_head("key"), per_head("value")
        query = self.param("query", nn.initializers.normal(1.0), (K, W))
        q = nn.Dense(W, name="q")(query).reshape(K, H, W // H)
        away = np.arange(t) - np.arange(t)[:, None]
        # Heads begin by looking a step back, here and a step ahead in turn.
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
    """Share of variance explained, (position, velocity), mean over bodies and axes."""
    error = np.square(predicted - true).mean((0, 1))
    spread = true.reshape(-1, *true.shape[2:]).var(0)
    score = 1 - error / spread
    return float(score[:, :2].mean()), float(score[:, 2:].mean())


def moments(labels):
    """Mean and deviation of labels over clips and frames, for unit variance."""
    return labels.mean((0, 1)), labels.std((0, 1)) + 1e-6


def probe(encode, train, held, readout, *, steps=500, batch=64, lr=2e-3):
    """Fit on frozen features of the training clips, score on held-out ones.

    Args:
      encode: uint8 video [b, T, H, W, 3] -> features [b, N, D].
      train, held: dicts with video, position, velocity over many clips.
    Returns:
      ((position R2, velocity R2), predicted labels [n, T, K, 4] of the held-out clips).
    """
    half = lambda video: np.asarray(encode(video), np.float16)  # noqa: E731
    mean, std = moments(labels_of(train))
    features = jnp.asarray(in_batches(half, train["video"]))
    params, _ = fit_readout(
        readout,
        features,
        (labels_of(train) - mean) / std,
        steps=steps,
        batch=batch,
        lr=lr,
    )
    del features
    read = jax.jit(
        lambda v: readout.apply(
            {"params": params}, encode(v).astype(jnp.float16).astype(jnp.float32)
        )
    )
    predicted = in_batches(read, held["video"]) * std + mean
    return r2(predicted, labels_of(held)), predicted
