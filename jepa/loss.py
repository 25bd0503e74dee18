"""Losses of masked latent prediction and terms that keep features from collapsing."""

import jax
import jax.numpy as jnp
import numpy as np

from core.parallel.collectives import all_gather_rows


def per_pattern(x, sizes):
    """Cut rows [B, sum(sizes), ...] into one array per mask pattern."""
    return jnp.split(x, np.cumsum(sizes)[:-1], 1)


def token_weights(valid, sizes):
    """How much each token counts, float32 [B, M], of bool [B, M].

    The mean over rows of a row's weighted sum is the mean over all tokens of a pattern
    that are valid, wherever they are: all weigh the same over the whole batch (arXiv
    2506.09985), and no row needs to know of the others.
    """
    B = len(valid)
    parts = (part.astype(jnp.float32) for part in per_pattern(valid, sizes))
    return jnp.concatenate([p * B / jnp.maximum(p.sum(), 1) for p in parts], 1)


def masked_l1(predicted, target, weight, sizes):
    """Mean absolute error per mask pattern over weighted tokens, then over patterns.

    [B, M, D], [B, M, D], float [B, M] of `token_weights` -> (scalar, [patterns]), in
    float32.
    """
    B, M, D = predicted.shape
    assert target.shape == (B, M, D) and weight.shape == (B, M), (
        target.shape,
        weight.shape,
    )
    error = jnp.abs(predicted.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
    terms = [e.sum(1).mean() for e in per_pattern(error * weight, sizes)]
    return jnp.stack(terms).mean(), jnp.stack(terms)


def sigreg(z, key, *, slices=256, knots=17, reach=3.0):
    """Distance of samples [N, D] from a standard normal, by random 1-D projections.

    Epps-Pulley statistic with prefactor N (arXiv 2511.08544): about 1.05 for a standard
    normal of any size, 0.402 N for a single point. Float32; N is the global batch.
    """
    z = z.astype(jnp.float32)
    N, D = z.shape
    directions = jax.random.normal(key, (D, slices))
    directions /= jnp.linalg.norm(directions, axis=0)
    t = np.linspace(0, reach, knots, dtype=np.float32)
    weight = np.full(knots, 2 * reach / (knots - 1), np.float32)
    weight[[0, -1]] /= 2
    normal = np.exp(-(t**2) / 2)
    angle = (z @ directions)[None] * t[:, None, None]
    error = jnp.square(jnp.cos(angle).mean(1) - normal[:, None])
    error += jnp.square(jnp.sin(angle).mean(1))
    return N * ((weight * normal) @ error).mean()


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


def spread(features, valid, key, *, sigreg_weight, vicreg_weight):
    """Weighted terms that keep features [B, C, D] from collapsing: (scalar, metrics).

    They look at clips, by the mean of a clip's visible tokens, and at single tokens:
    the one keeps features from telling only where they are, the other from falling
    into one direction.
    """
    features, valid = all_gather_rows(features), all_gather_rows(valid)
    weight = valid.astype(jnp.float32)
    features = features.astype(jnp.float32)
    share = weight / jnp.maximum(weight.sum(1, keepdims=True), 1)
    clips = jnp.einsum("bcd,bc->bd", features, share)
    tokens = features.reshape(-1, features.shape[-1])
    total, metrics = 0.0, {}
    if vicreg_weight:
        terms = {"clips": vicreg(clips), "tokens": vicreg(tokens, weight.reshape(-1))}
        for name, (var, cov) in terms.items():
            metrics |= {f"variance_{name}": var, f"covariance_{name}": cov}
        total += vicreg_weight * sum(metrics.values())
    if sigreg_weight:
        metrics["sigreg"] = sigreg(clips, key)
        total += sigreg_weight * metrics["sigreg"]
    return total, metrics
