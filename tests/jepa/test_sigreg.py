"""SIGReg against its closed forms, a plain formula, and itself on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jepa.losses.sigreg import sigreg

same = np.testing.assert_allclose


def mean_sigreg(make, *, draws, slices=256, seed=0):
    """The statistic averaged over sample sets and directions."""
    rng = np.random.default_rng(seed)
    one = jax.jit(sigreg, static_argnames="slices")
    values = [
        one(jnp.asarray(make(rng), jnp.float32), jax.random.key(i), slices=slices)
        for i in range(draws)
    ]
    return float(np.mean(values))


@pytest.mark.parametrize(("N", "D"), [(64, 32), (128, 192)])
def test_sigreg_of_a_standard_normal_is_its_expectation(N, D):
    value = mean_sigreg(lambda rng: rng.standard_normal((N, D)), draws=60)
    same(value, 1.052, atol=0.05)


@pytest.mark.parametrize("N", [64, 128, 512])
def test_sigreg_of_a_point_is_its_closed_form(N):
    same(sigreg(jnp.zeros((N, 8)), jax.random.key(0)), 0.40205 * N, rtol=2e-5)


# Derived values for N samples in D dimensions (latent_world_models 1.1).
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small", (24.8, 49.5, 198)),
        ("narrow", (10.1, 19.8, 77.7)),
        ("wide", (16.5, 32.0, 122)),
        ("moved", (26, 50, 197)),
        ("line", (10.9, 23.9, 83.7)),
    ],
)
def test_sigreg_of_wrong_distributions(name, expected):
    def copied(rng, N, D):
        return np.repeat(rng.standard_normal((N, 1)), D, 1)

    makers = {
        "small": lambda rng, *size: 0.1 * rng.standard_normal(size),
        "narrow": lambda rng, *size: 0.5 * rng.standard_normal(size),
        "wide": lambda rng, *size: 2 * rng.standard_normal(size),
        "moved": lambda rng, *size: rng.standard_normal(size) + 1,
        "line": copied,
    }
    for (N, D), value in zip(((64, 32), (128, 192), (512, 192)), expected, strict=True):
        make = lambda rng, N=N, D=D: makers[name](rng, N, D)  # noqa: E731
        same(mean_sigreg(make, draws=8), value, rtol=0.1)


def test_sigreg_sees_little_but_moments_in_many_dimensions():
    """A uniform of unit variance is nearly normal in projection: 1.06 is derived."""
    limit = 3**0.5
    found = mean_sigreg(lambda rng: rng.uniform(-limit, limit, (512, 192)), draws=20)
    same(found, 1.06, atol=0.06)


def test_sigreg_pulls_towards_a_standard_normal():
    z = 0.3 * jax.random.normal(jax.random.key(1), (128, 16)) + 1
    start = sigreg(z, jax.random.key(0))

    @jax.jit
    def descend(z, key):
        return z - 1.0 * jax.grad(sigreg)(z, key)

    for i in range(60):
        z = descend(z, jax.random.key(i))
    assert sigreg(z, jax.random.key(0)) < start / 10
    same(z.mean(0), 0, atol=0.2)
    same(z.std(0), 1, atol=0.2)


def plain(z, key, *, slices, knots=17, limit=3.0):
    """The formula with every cosine written out: leading axes in a loop."""
    if z.ndim == 3:
        return jnp.stack([plain(one, key, slices=slices) for one in z]).mean()
    directions = jax.random.normal(key, (z.shape[1], slices))
    x = z @ (directions / jnp.linalg.norm(directions, axis=0))
    t = np.linspace(0, limit, knots, dtype=np.float32)
    weight = np.full(knots, 2 * limit / (knots - 1))
    weight[[0, -1]] /= 2
    error = (jnp.cos(t[:, None, None] * x).mean(1) - np.exp(-(t**2) / 2)[:, None]) ** 2
    error += jnp.sin(t[:, None, None] * x).mean(1) ** 2
    return len(z) * jnp.einsum("j,jk->k", weight * np.exp(-(t**2) / 2), error).mean()


@pytest.mark.parametrize("shape", [(24, 6), (3, 24, 6)])
def test_value_and_gradient_are_those_of_the_plain_formula(shape):
    z, key = 2 * jax.random.normal(jax.random.key(1), shape), jax.random.key(2)
    value, grad = jax.value_and_grad(sigreg)(z, key, slices=32)
    true_value, true_grad = jax.value_and_grad(plain)(z, key, slices=32)
    same(value, true_value, rtol=1e-5)
    same(grad, true_grad, rtol=1e-4, atol=1e-6)


def test_bfloat16_changes_it_little():
    z = 2 * jax.random.normal(jax.random.key(1), (64, 16))
    key = jax.random.key(2)
    same(sigreg(z.astype(jnp.bfloat16), key), sigreg(z, key), rtol=1e-2)


@pytest.mark.parametrize("axes", [{"data": 8}, {"replica": 2, "data": 2, "fsdp": 2}])
def test_statistics_are_global_on_any_mesh(axes):
    """In the convention of core/parallel/gradients.py: each device's share is summed."""
    z, key = jax.random.normal(jax.random.key(1), (3, 32, 6)) + 1, jax.random.key(2)
    auto = (AxisType.Auto,) * len(axes)
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=auto)
    rows = PartitionSpec(None, tuple(axes))

    def local(z):
        value, grad = jax.value_and_grad(lambda z: sigreg(z, key, slices=32) / 8)(z)
        return 8 * value, grad

    with jax.set_mesh(mesh):
        run = jax.shard_map(
            local, in_specs=rows, out_specs=(PartitionSpec(), rows), check_vma=False
        )
        value, grad = jax.jit(run)(z)
    whole, true_grad = jax.value_and_grad(sigreg)(z, key, slices=32)
    same(value, whole, rtol=1e-5)
    same(grad, true_grad, rtol=1e-4, atol=1e-6)
