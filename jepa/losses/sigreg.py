"""SIGReg: distance of embeddings from a standard normal, by random projections.

arXiv 2511.08544. The statistics are those of the global batch, whatever the mesh.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.parallel.collectives import count_rows, mean_over_rows


def sigreg(z, key, *, slices: int = 1024, knots: int = 17, limit: float = 3.0):
    """Epps-Pulley statistic of samples [..., N, D] along random directions: [].

    The mean over slices and over the leading axes, such as views or time steps, which are
    tested one by one. With the prefactor N, the global number of samples: about 1.05 for a
    standard normal of any size, 0.402 N for a single point. Float32.

    Args:
      z: embeddings; inside shard_map, each device's own rows N of the batch.
      key: for the directions; the same on every device.
      slices: number of random directions, K.
      knots: points of the characteristic function on [0, limit].
    """
    z = z.astype(jnp.float32)
    *lead, N, D = z.shape
    directions = draw_directions(key, D, slices)
    x = jnp.matmul(z, directions, precision=jax.lax.Precision.HIGHEST)
    step = limit / (knots - 1)
    cos, sin = mean_over_rows(characteristic(x, knots, step))
    weight, normal = quadrature(knots, step)
    error = jnp.square(cos - normal[:, None]) + jnp.square(sin)
    assert error.shape == (*lead, knots, slices), (error.shape, z.shape)
    each = jnp.einsum("j,...jk->...k", weight * normal, error)
    return count_rows(N) * each.mean()


def draw_directions(key, width: int, slices: int):
    """Uniform random directions in `width` dimensions, unit vectors [width, slices]."""
    directions = jax.random.normal(key, (width, slices))
    return directions / jnp.linalg.norm(directions, axis=0)


def quadrature(knots: int, step: float):
    """Trapezoid weights on both halves of the axis, and exp(-t^2 / 2): float32 [J] each."""
    t = step * np.arange(knots)
    weight = np.full(knots, 2 * step)
    weight[[0, -1]] = step
    return weight.astype(np.float32), np.exp(-(t**2) / 2).astype(np.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def characteristic(x, knots: int, step: float):
    """Mean over N of cos and sin of j step x, j = 0..J-1: [..., N, K] -> 2 of [..., J, K].

    The gradient computes cosines and sines again: memory is that of x, not J times it.
    """
    turn, start = first_turn(x, step)

    # A loop: unrolled, XLA computes all turns again for the mean of each.
    def one(at, _):
        return turn(at), tuple(part.mean(-2) for part in at)

    _, means = jax.lax.scan(one, start, length=knots)
    cos, sin = (jnp.moveaxis(part, 0, -2) for part in means)
    return cos, sin


def characteristic_forward(x, knots, step):
    return characteristic(x, knots, step), x


def characteristic_backward(knots, step, x, grads):
    total = jnp.zeros_like(x)
    turn, (cos, sin) = first_turn(x, step)
    for j in range(knots):
        for_cos, for_sin = (g[..., j, None, :] for g in grads)
        total += (j * step / x.shape[-2]) * (for_sin * cos - for_cos * sin)
        cos, sin = turn((cos, sin))
    return (total,)


characteristic.defvjp(characteristic_forward, characteristic_backward)


def first_turn(x, step: float):
    """(turn, start) of cos(j step x) and sin(j step x): those of j = 0, and from j to j + 1."""
    cos, sin = jnp.cos(step * x), jnp.sin(step * x)

    def turn(at):
        c, s = at
        return c * cos - s * sin, s * cos + c * sin

    return turn, (jnp.ones_like(x), jnp.zeros_like(x))
