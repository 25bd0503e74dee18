"""Positional encodings: 3D rotary tables for attention, and fixed 3D sincos features."""

import jax
import jax.numpy as jnp
import numpy as np


def rope_channels(head_dim: int) -> int:
    """Channels rotated per axis: 2 * floor(floor(head_dim / 3) / 2); the rest are not."""
    return 2 * (head_dim // 3 // 2)


def rope_tables(
    positions: np.ndarray, *, head_dim: int, variant: str, theta: float = 10_000.0
) -> tuple[np.ndarray, np.ndarray]:
    """Tables for `rotate`: positions [B, N, 3] -> cos, sin [B, N, 2, head_dim / 2].

    The axis of size two holds the first and the second member of every adjacent channel
    pair; pairs that are not rotated come last. "tiled" repeats the k/2 angles of an axis
    end to end, so that the members of a pair rotate by different angles, as in the released
    V-JEPA 2 weights (arXiv 2506.09985). "paired" rotates both by the same angle, as in
    V-JEPA 2.1 (arXiv 2603.14482). Raises ValueError for another variant.
    """
    if variant not in ("tiled", "paired"):
        raise ValueError(f"rope variant is {variant!r}; expected 'tiled' or 'paired'")
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


def halve(x: jax.Array) -> jax.Array:
    """Move the first members of all adjacent channel pairs before the second members.

    The same permutation of queries and keys leaves attention unchanged. Rotating two
    halves needs no shuffle of channels; rotating adjacent pairs does.
    """
    *shape, d = x.shape
    return x.reshape(*shape, d // 2, 2).swapaxes(-1, -2).reshape(*shape, d)


def rotate(x: jax.Array, cos, sin) -> jax.Array:
    """Rotate halved queries or keys [B, N, H, d] by tables [B, N, 2, d/2], in float32."""
    y = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    y = y * cos[:, :, None] + y[..., ::-1, :] * sin[:, :, None]
    return y.reshape(x.shape).astype(x.dtype)


def sincos(positions: np.ndarray, width: int) -> np.ndarray:
    """Fixed features of positions [N, 3]: float32 [N, width], V-JEPA 1 (arXiv 2404.08471).

    Each axis gets 2 * ceil(width / 6) channels, sines before cosines, in the order time,
    row, column; the result is truncated to `width`, which drops channels of the column.
    """
    m = 2 * -(-width // 6)
    omega = 1.0 / 10_000 ** (np.arange(m // 2, dtype=np.float64) / (m / 2))
    angle = positions.astype(np.float64)[:, :, None] * omega
    table = np.concatenate([np.sin(angle), np.cos(angle)], -1)
    return table.reshape(len(positions), 3 * m)[:, :width].astype(np.float32)


def sincos2d(positions: np.ndarray, width: int) -> np.ndarray:
    """Fixed features of the rows and columns of positions [N, 3]: float32 [N, width].

    Each of the two has half of the channels, sines before cosines (I-JEPA, arXiv
    2301.08243); time has none. `width` is a multiple of 4.
    """
    m = width // 2
    omega = 1.0 / 10_000 ** (np.arange(m // 2, dtype=np.float64) / (m / 2))
    angle = positions[:, 1:].astype(np.float64)[:, :, None] * omega
    table = np.concatenate([np.sin(angle), np.cos(angle)], -1)
    return table.reshape(len(positions), width).astype(np.float32)
