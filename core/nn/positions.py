"""Where tokens are: 3D rotary angles for attention, and fixed 3D features."""

import jax.numpy as jnp
import numpy as np


def rope_channels(head_dim: int) -> int:
    """Channels turned per axis: 2 * floor(floor(head_dim / 3) / 2); the rest stay."""
    return 2 * (head_dim // 3 // 2)


def rope_tables(
    positions: np.ndarray, *, head_dim: int, variant: str, theta: float = 10_000.0
):
    """Tables for `rotate`: positions [B, N, 3] -> cos, sin [B, N, 2, head_dim / 2].

    The axis of size two holds the first and the second member of every adjacent channel
    pair, pairs that stay last. "tiled" repeats the k/2 angles of an axis end to end, so
    that the members of a pair turn by different angles (released V-JEPA 2 weights depend
    on it); "paired" gives both the same angle, the textbook rotation of V-JEPA 2.1
    (arXiv 2506.09985, 2603.14482).
    """
    if variant not in ("tiled", "paired"):
        raise ValueError(f"rope variant is {variant!r}; use 'tiled' or 'paired'")
    k = rope_channels(head_dim)
    omega = theta ** (-np.arange(k // 2) / (k / 2))
    table = np.tile(omega, 2) if variant == "tiled" else np.repeat(omega, 2)
    table = table.reshape(-1, 2).T.astype(np.float32)  # [2, k/2]
    angle = positions.astype(np.float32)[:, :, None, :, None] * table[:, None]
    angle = angle.reshape(*positions.shape[:2], 2, 3 * (k // 2))
    rest = [(0, 0)] * 3 + [(0, head_dim // 2 - 3 * (k // 2))]
    angle = np.pad(angle, rest)
    sign = np.array([[-1], [1]], np.float32)
    return np.cos(angle), np.sin(angle) * sign


def halve(x):
    """Move the first members of all adjacent channel pairs before the second members.

    Queries and keys may be permuted alike without changing attention. Two halves turn
    with contiguous arithmetic where adjacent pairs need a shuffle.
    """
    *shape, d = x.shape
    return x.reshape(*shape, d // 2, 2).swapaxes(-1, -2).reshape(*shape, d)


def rotate(x, cos, sin):
    """Turn halved queries or keys [B, N, H, d] by tables [B, N, 2, d/2], in float32."""
    y = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    y = y * cos[:, :, None] + y[..., ::-1, :] * sin[:, :, None]
    return y.reshape(x.shape).astype(x.dtype)


def sincos(positions: np.ndarray, width: int) -> np.ndarray:
    """Fixed 3D features [N, 3] -> float32 [N, width], V-JEPA 1 (arXiv 2404.08471).

    Each axis gets 2 * ceil(width / 6) channels, sines before cosines, ordered time, row,
    column, and the whole is cut to `width`: the column axis loses what is too much.
    """
    m = 2 * -(-width // 6)
    omega = 1.0 / 10_000 ** (np.arange(m // 2, dtype=np.float64) / (m / 2))
    angle = positions.astype(np.float64)[:, :, None] * omega
    table = np.concatenate([np.sin(angle), np.cos(angle)], -1)
    return table.reshape(len(positions), 3 * m)[:, :width].astype(np.float32)
