"""Statistics of evaluations: bootstrap intervals, ranks of representations."""

import numpy as np


def bootstrap(values, *, seed: int = 0, draws: int = 1000, level: float = 0.95):
    """(low, high): percentile interval of the mean of `values` [n] over resampled items."""
    values = np.asarray(values, np.float64)
    rng, n = np.random.default_rng(seed), len(values)
    means = [values[rng.integers(0, n, n)].mean() for _ in range(draws)]
    edge = 50 * (1 - level)
    low, high = np.percentile(means, (edge, 100 - edge))
    return float(low), float(high)


def effective_rank(x) -> float:
    """exp of the entropy of normalized singular values of centered rows [n, D].

    Roy and Vetterli, EUSIPCO 2007.
    """
    x = np.asarray(x, np.float64)
    return entropy_rank(np.linalg.svd(x - x.mean(0), compute_uv=False), eps=0)


def rankme(x) -> float:
    """RankMe: as `effective_rank`, but of rows as they are (arXiv 2210.02885, section 3)."""
    return entropy_rank(np.linalg.svd(np.asarray(x, np.float64), compute_uv=False))


def entropy_rank(values, *, eps: float = 1e-7) -> float:
    """exp of the entropy of `values` / their sum + eps."""
    p = values / max(values.sum(), 1e-30) + eps
    return float(np.exp(-(p * np.log(p + 1e-30)).sum()))


def lidar(x, *, within_eps: float = 1e-4) -> float:
    """LiDAR, the rank of linear discriminants (arXiv 2312.04000, section 4).

    x: [n, q, D], q views of each of n inputs. exp of the entropy of the eigenvalues of
    W^-1/2 B W^-1/2, with B the covariance of the means of inputs and W the covariance
    within inputs plus `within_eps` on its diagonal.
    """
    x = np.asarray(x, np.float64)
    n, q, D = x.shape
    means = x.mean(1)
    between = np.cov(means, rowvar=False, bias=False).reshape(D, D)
    rest = (x - means[:, None]).reshape(-1, D)
    within = rest.T @ rest / (n * (q - 1)) + within_eps * np.eye(D)
    values, vectors = np.linalg.eigh(within)
    root = (vectors / np.sqrt(values)) @ vectors.T
    return entropy_rank(np.clip(np.linalg.eigvalsh(root @ between @ root), 0, None))


def representation(x) -> dict[str, float]:
    """Numbers about features [n, D] or, with views, [n, q, D]; "lidar" needs views.

    std: mean over dimensions of the standard deviation over inputs; std_min: the least.
    """
    x = np.asarray(x, np.float64)
    rows = x.reshape(-1, x.shape[-1])
    std = rows.std(0)
    found = {
        "rankme": rankme(rows),
        "effective_rank": effective_rank(rows),
        "std": float(std.mean()),
        "std_min": float(std.min()),
    }
    return found | ({"lidar": lidar(x)} if x.ndim == 3 else {})
