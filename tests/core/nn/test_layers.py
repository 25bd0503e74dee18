"""Hand-written gradients equal those of automatic differentiation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.nn import kernels, layers
from core.nn.transformer import Transformer
from core.parallel.layouts import unbox


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def gradients(f, *x):
    """Value and gradients of a random projection of f(*x)."""

    def projected(*x):
        y = f(*x)
        return (y.astype(jnp.float32) * normal(9, *y.shape)).sum()

    return jax.jit(jax.value_and_grad(projected, range(len(x))))(*x)


def assert_agree(ours, plain, *x, atol=2e-5):
    """Assert the same values and gradients, each gradient in the dtype of its argument."""
    found, expected = gradients(ours, *x), gradients(plain, *x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = (np.asarray(y, np.float32) for y in (a, b))
        np.testing.assert_allclose(a, b, atol=atol * max(1, np.abs(b).max()))


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "atol"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)]
)


@PRECISIONS
@pytest.mark.parametrize("features", [3, 5, 7])
def test_linear(features, dtype, atol):
    x, kernel = normal(0, 2, 4, 5, dtype=dtype), normal(1, 5, features, dtype=dtype)
    assert_agree(layers.linear, lambda x, w: x @ w, x, kernel, atol=atol)
    assert_agree(layers.linear, lambda x, w: x @ w, x[0, 0], kernel, atol=atol)


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_normalize(eps):
    def plain(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + eps)

    assert_agree(
        lambda x: layers.normalize(x, eps=eps),
        plain,
        3 + 2 * normal(0, 2, 4, 16),
        atol=2e-6,
    )


@PRECISIONS
def test_gelu(dtype, atol):
    x = jnp.concatenate([5 * normal(0, 3, 64), jnp.array([[0.0, 30, -30, 7] * 16])])
    x = x.astype(dtype)
    assert_agree(layers.gelu, lambda x: jax.nn.gelu(x, approximate=False), x, atol=atol)


@PRECISIONS
@pytest.mark.parametrize("padded", [False, True])
def test_attend(padded, dtype, atol):
    qkv = [normal(i, 2, 7, 3, 4, dtype=dtype) for i in range(3)]
    seen = jnp.array([[1, 0, 1, 1, 1, 0, 1], 7 * [1]], bool) if padded else None
    assert_agree(
        lambda *qkv: kernels.plain(*qkv, seen),
        lambda *qkv: kernels.attention.fun(*qkv, seen),
        *qkv,
        atol=atol,
    )


def test_rematerialization_changes_no_value():
    x = normal(0, 2, 6, 8)
    kinds = ("none", "dots", "attention", "block")
    stacks = [Transformer(3, 2, 16, remat=remat) for remat in kinds]
    params = unbox(stacks[0].init(jax.random.key(0), x))
    run = [lambda x, p, s=s: s.apply(p, x, segments=(4, 2)) for s in stacks]
    expected, *found = (gradients(f, x, params) for f in run)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    for other in found:
        jax.tree.map(close, other, expected)
    # The more is kept, the fewer products there are.
    programs = [
        str(jax.make_jaxpr(jax.grad(lambda p, f=f: f(x, p).sum()))(params)) for f in run
    ]
    products = [text.count("dot_general") for text in programs[1:]]
    assert products[0] < products[1] < products[2]
