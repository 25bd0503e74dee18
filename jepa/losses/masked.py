"""Losses of masked latent prediction, and terms against collapse of features."""

import jax
import jax.numpy as jnp
import numpy as np

from core.parallel.collectives import all_gather_rows
from jepa.losses.sigreg import sigreg


def per_pattern(x, sizes):
    """Split [B, sum(sizes), ...] into one array per mask pattern."""
    return jnp.split(x, np.cumsum(sizes)[:-1], 1)


def token_weights(valid, sizes):
    """Weight of each token, bool [B, M] -> float32 [B, M]; 0 where it is invalid.

    The mean over rows of a row's weighted sum is the mean over all valid tokens of a
    pattern in the batch, so all tokens weigh the same (arXiv 2506.09985) although the loss
    is a mean over rows. sizes: tokens per pattern.
    """
    B = len(valid)
    parts = (part.astype(jnp.float32) for part in per_pattern(valid, sizes))
    return jnp.concatenate([p * B / jnp.maximum(p.sum(), 1) for p in parts], 1)


def smooth_l1(gap):
    """Smooth L1 of differences with beta 1: half the square below 1, linear above."""
    size = jnp.abs(gap)
    return jnp.where(size < 1, 0.5 * jnp.square(gap), size - 0.5)


def moving(patches, grid):
    """How far each tubelet is from its place's mean over the clip: [B, N, p] -> [B, N].

    Mean absolute difference over pixels and colors, in the units of the pixels: 0 for all
    that rests during the clip. N = t h w tokens of `grid`; a tubelet's frames come first.
    """
    B, N, p = patches.shape
    t, cells = grid[0], grid[1] * grid[2]
    x = patches.astype(jnp.float32).reshape(B, t, cells, p)
    return jnp.abs(x - x.mean(1, keepdims=True)).mean(-1).reshape(B, N)


def shift_to_motion(weight, motion, sizes, share):
    """Give `share` of each pattern's weight to tokens in proportion to their motion.

    weight, motion: [B, M]; tokens of weight 0 keep it, and so does a pattern in which
    nothing moves. The mean over rows of a row's summed weight stays what it was.
    """
    found = []
    for w, m in zip(
        per_pattern(weight, sizes), per_pattern(motion, sizes), strict=True
    ):
        by_motion = w * m
        total = by_motion.sum()
        by_motion *= w.sum() / jnp.where(total > 0, total, 1)
        found.append(jnp.where(total > 0, (1 - share) * w + share * by_motion, w))
    return jnp.concatenate(found, 1)


def masked_l1(predicted, target, weight, sizes):
    """Weighted mean absolute error over tokens; see `masked_mean`."""
    return masked_mean(predicted, target, weight, sizes, error=jnp.abs)


def masked_mean(predicted, target, weight, sizes, *, error):
    """Weighted mean error over tokens: (mean over patterns [], each pattern's).

    Args:
      predicted, target: [B, M, D]; computed with in float32.
      weight: float32 [B, M], what `token_weights` returns.
      sizes: tokens per pattern, whose sum is M.
      error: of differences, element by element.
    """
    B, M, D = predicted.shape
    assert target.shape == (B, M, D) and weight.shape == (B, M), (
        target.shape,
        weight.shape,
    )
    gap = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    each = error(gap).mean(-1)
    terms = [e.sum(1).mean() for e in per_pattern(each * weight, sizes)]
    return jnp.stack(terms).mean(), jnp.stack(terms)


def distance_weights(target, valid, grid, sizes):
    """1 / sqrt(distance) of every token to the nearest valid target, per mask pattern.

    float32 [B, patterns, N] on the grid of N = t h w tokens; distances are Euclidean, in
    steps along time, row and column (arXiv 2603.14482; 1 for neighbors). Targets themselves
    have 0. Squared distances are minimized axis by axis, which is exact.

    Args:
      target, valid: indices and bool [B, M], one pattern after another; sizes: of them.
    """
    B, far = len(target), 4.0 * sum(n * n for n in grid)
    rows = jnp.arange(B)[:, None]
    found = []
    for index, known in zip(
        per_pattern(target, sizes), per_pattern(valid, sizes), strict=True
    ):
        marked = jnp.zeros((B, np.prod(grid)), bool).at[rows, index].max(known)
        square = jnp.where(marked, 0.0, far).reshape(B, *grid)
        for axis, n in enumerate(grid, 1):
            gap = np.square(np.subtract.outer(np.arange(n), np.arange(n)))
            x = jnp.moveaxis(square, axis, -1)[..., None, :] + gap
            square = jnp.moveaxis(x.min(-1), -1, axis)
        square = square.reshape(B, -1)
        found.append(jnp.where(square > 0, jnp.maximum(square, 1) ** -0.25, 0))
    return jnp.stack(found, 1)


def mask_ratios(batch, masker) -> dict:
    """Realized shares of a clip, per mask pattern i.

    masked_ratio{i}: tokens that the encoder does not see; target_ratio{i}: tokens that are
    predicted.
    """
    tokens = masker.grid[0] * masker.grid[1] * masker.grid[2]
    seen = per_pattern(batch["context_valid"], masker.sizes("context"))
    hidden = per_pattern(batch["target_valid"], masker.sizes("target"))
    metrics = {}
    for i, (c, t) in enumerate(zip(seen, hidden, strict=True)):
        metrics[f"masked_ratio{i}"] = 1 - c.sum(1).mean() / tokens
        metrics[f"target_ratio{i}"] = t.sum(1).mean() / tokens
    return metrics


def vicreg(z, weight=None):
    """Variance and covariance terms of samples [N, D] (arXiv 2105.04906): (var, cov).

    `weight` [N] counts samples: 0 leaves padding out.
    """
    z = z.astype(jnp.float32)
    N, D = z.shape
    weight = jnp.ones((N,)) if weight is None else weight.astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 2)
    z = z - (z * weight[:, None]).sum(0) / count
    scaled = z * weight[:, None]
    std = jnp.sqrt((scaled * z).sum(0) / count + 1e-4)
    cov = scaled.T @ z / (count - 1)
    off = jnp.square(cov).sum() - jnp.square(jnp.diagonal(cov)).sum()
    return jax.nn.relu(1 - std).mean(), off / (D * (D - 1))


def about_place(tokens, seen, place, places: int):
    """Tokens [n, D] less the mean of the seen ones, bool or float [n], at their place [n]."""
    count = jnp.zeros(places).at[place].add(seen)
    total = jnp.zeros((places, tokens.shape[1])).at[place].add(tokens * seen[:, None])
    return tokens - (total / jnp.maximum(count, 1)[:, None])[place]


def spread(features, valid, index, key, *, tokens, sigreg_weight, vicreg_weight):
    """Weighted terms against collapse of features [B, C, D]: (scalar, metrics).

    Terms on the mean of a clip's visible tokens act against features that encode only
    their position; terms on single tokens, as they differ from the mean of their place,
    act against features of low rank.

    Args:
      valid: bool [B, C]. index: int [B, C], places among `tokens`. key: for the
        projections of SIGReg.
      sigreg_weight, vicreg_weight: 0 leaves the term out.
    """
    weight = valid.astype(jnp.float32)
    features = features.astype(jnp.float32)
    share = weight / jnp.maximum(weight.sum(1, keepdims=True), 1)
    clips = jnp.einsum("bcd,bc->bd", features, share)
    total, metrics = 0.0, {}
    if vicreg_weight:
        seen, place = (all_gather_rows(x).reshape(-1) for x in (weight, index))
        single = all_gather_rows(features).reshape(-1, features.shape[-1])
        terms = {
            "clips": vicreg(all_gather_rows(clips)),
            "tokens": vicreg(about_place(single, seen, place, tokens), seen),
        }
        for name, (var, cov) in terms.items():
            metrics |= {f"variance_{name}": var, f"covariance_{name}": cov}
        total += vicreg_weight * sum(metrics.values())
    if sigreg_weight:
        metrics["sigreg"] = sigreg(clips, key, slices=256)
        total += sigreg_weight * metrics["sigreg"]
    return total, metrics
