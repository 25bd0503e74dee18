"""Losses of masked latent prediction and terms that keep features from collapsing."""

import jax
import jax.numpy as jnp
import numpy as np


def per_pattern(x, sizes):
    """Cut rows [B, sum(sizes), ...] into one array per mask pattern."""
    return jnp.split(x, np.cumsum(sizes)[:-1], 1)


def masked_l1(predicted, target, valid, sizes):
    """Mean absolute error per mask pattern over valid tokens, then the mean of patterns.

    [B, M, D], [B, M, D], bool [B, M] -> (scalar, [patterns]). In float32; every valid
    token of a pattern weighs the same over the whole batch (arXiv 2506.09985, section 2).
    """
    B, M, D = predicted.shape
    assert target.shape == (B, M, D) and valid.shape == (B, M), (
        target.shape,
        valid.shape,
    )
    error = jnp.abs(predicted.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
    error, weight = error * valid, valid.astype(jnp.float32)
    sums = zip(per_pattern(error, sizes), per_pattern(weight, sizes), strict=True)
    terms = jnp.stack([e.sum() / jnp.maximum(w.sum(), 1) for e, w in sums])
    return terms.mean(), terms


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


def vicreg(z):
    """Variance and covariance terms of samples [N, D] (arXiv 2105.04906), as (var, cov)."""
    z = z.astype(jnp.float32)
    N, D = z.shape
    z = z - z.mean(0)
    std = jnp.sqrt(jnp.square(z).mean(0) + 1e-4)
    cov = z.T @ z / (N - 1)
    off = jnp.square(cov).sum() - jnp.square(jnp.diagonal(cov)).sum()
    return jax.nn.relu(1 - std).mean(), off / (D * (D - 1))
