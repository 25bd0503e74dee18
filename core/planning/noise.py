"""Noise of candidate plans: white, or colored along a plan's steps."""

import jax
import jax.numpy as jnp
import numpy as np

from core.nn import row_keys


def normal(key, shape):
    """Standard normal noise of plans [B, S, H, A] by one key, or by one for each problem."""
    if key.ndim:
        return row_keys.sample(jax.random.normal, key, shape)
    # Time first in memory, which decides the draws of a seed.
    B, S, H, A = shape
    return jax.random.normal(key, (H, B, S, A)).transpose(1, 2, 0, 3)


def colored(key, shape, *, beta: float):
    """Normal noise [B, S, H, A] whose power spectrum along H is f^-beta, of unit variance.

    beta 0 is white noise; 2 that of a random walk (iCEM, arXiv 2008.06389, section 3.1).
    """
    white = normal(key, shape)
    if not beta:
        return white
    return jnp.einsum("gh,bsha->bsga", coloring(shape[2], beta), white)


def coloring(H: int, beta: float) -> np.ndarray:
    """The matrix [H, H] that turns white noise of H steps into colored noise.

    It scales frequency f by f^(-beta/2); the mean, f = 0, as the lowest other frequency.
    """
    f = np.maximum(np.fft.rfftfreq(H), 1 / H)
    scale = f ** (-beta / 2)
    matrix = np.fft.irfft(scale[:, None] * np.fft.rfft(np.eye(H), axis=0), H, axis=0)
    return (matrix / np.sqrt((matrix**2).sum(1, keepdims=True))).astype(np.float32)
