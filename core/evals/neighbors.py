"""Read-outs without training: nearest neighbors and ridge regression, in closed form."""

import numpy as np


def unit(x):
    """Rows of length 1, float32."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def nearest_classes(
    features, labels, queries, *, classes: int, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Votes [m, classes] of the k nearest rows by cosine, weights exp(similarity / t).

    The protocol of DINO (arXiv 2104.14294, section 4.1). features: [n, D], labels: int
    [n], queries: [m, D].
    """
    bank, labels = unit(features), np.asarray(labels)
    k, votes = min(k, len(bank)), []
    for rows in np.array_split(unit(queries), -(-len(queries) // 256)):
        similar = rows @ bank.T
        near = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        near_similar = np.take_along_axis(similar, near, 1)
        weights = np.exp((near_similar - 1) / temperature)
        chosen = labels[near][..., None] == np.arange(classes)
        votes.append((weights[..., None] * chosen).sum(1))
    return np.concatenate(votes)


def ridge(features, targets, queries, *, penalties=None):
    """Ridge regression: (predictions [m, T], the penalty chosen).

    Features are standardized, the intercept is free. The penalty with the least
    leave-one-out error is taken, which the hat matrix gives without refitting (Allen 1974,
    PRESS). features: [n, D], targets: [n, T], queries: [m, D].
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    penalties = np.logspace(-3, 6, 19) if penalties is None else np.asarray(penalties)
    mean, std = x.mean(0), x.std(0) + 1e-12
    x, middle = (x - mean) / std, y.mean(0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected, best = u.T @ (y - middle), (np.inf, penalties[0])
    for penalty in penalties:
        shrink = s**2 / (s**2 + penalty)
        fitted = (u * shrink) @ projected
        leverage = 1 / len(x) + (u**2 * shrink).sum(1)
        left_out = (y - middle - fitted) / np.maximum(1 - leverage, 1e-9)[:, None]
        best = min(best, (float((left_out**2).mean()), penalty))
    penalty = best[1]
    weights = vt.T @ ((s / (s**2 + penalty))[:, None] * projected)
    z = (np.asarray(queries, np.float64) - mean) / std
    return z @ weights + middle, float(penalty)
