"""Terms of latents along trajectories: against collapse over the batch, and over time.

arXiv 2502.14819, section 3. Variance and covariance are those of VICReg, with the covariance
divided by D (D - 1).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jepa.losses.masked import vicreg


def within_steps(z):
    """(variance, covariance) over the rows of each time step, averaged over the steps.

    z: latents [B, T, D].
    """
    return averaged(z.swapaxes(0, 1))


def over_all(z):
    """(variance, covariance) over all rows and time steps of z [B, T, D] together."""
    return vicreg(z.reshape(-1, z.shape[-1]))


def along_time(z):
    """(variance, covariance) over the steps of each row of z [B, T, D], averaged over rows."""
    return averaged(z)


def averaged(sets):
    """Means over sets of samples [sets, N, D] of the terms of `vicreg`."""
    variance, covariance = jax.vmap(vicreg)(sets)
    return variance.mean(), covariance.mean()


def temporal(z):
    """Mean squared change from each step to the next of z [B, T, D]."""
    return jnp.square(z[:, 1:] - z[:, :-1]).mean()


SAMPLES: dict[str, Callable] = {"steps": within_steps, "all": over_all}
