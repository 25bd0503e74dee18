"""All attention kernels against the plain one and numpy, with padding, both passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.config import resolve_auto
from core.nn import kernels

B, H, d = 2, 2, 64


def values(N, M, dtype=jnp.float32):
    rng = np.random.default_rng(N)
    rows = (rng.standard_normal((B, n, H, d)) for n in (N, M, M, N))
    return [jnp.asarray(x, dtype) for x in rows]


def outcome(attend, q, k, v, weight, seen):
    """Attention, and the gradients of a random projection of it."""

    def projected(q, k, v):
        y = attend(q, k, v, seen)
        return (y.astype(jnp.float32) * weight).sum(), y

    (_, y), grads = jax.value_and_grad(projected, (0, 1, 2), has_aux=True)(q, k, v)
    return y, *grads


def numpy_attention(q, k, v, seen):
    """Attention in float64, row by row, over the keys that count."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    y = np.zeros(q.shape)
    for b in range(B):
        n = slice(None) if seen is None else np.asarray(seen[b])
        for h in range(H):
            s = q[b, :, h] @ k[b, n, h].T / np.sqrt(d)
            s = np.exp(s - s.max(1, keepdims=True))
            y[b, :, h] = s / s.sum(1, keepdims=True) @ v[b, n, h]
    return y


FIRST = np.arange(330) < np.array([[330], [101]])
ANY = np.random.default_rng(0).random((2, 330)) < 0.5


@pytest.mark.parametrize("seen", [None, FIRST, ANY], ids=["all", "first", "any"])
@pytest.mark.parametrize("name", ["chunked", "splash", "cudnn"])
def test_all_kernels_equal_plain_attention(name, seen, monkeypatch):
    if name in kernels.VALID_FIRST and seen is ANY:
        pytest.skip("cuDNN requires the keys that count first")
    monkeypatch.setattr(kernels, "QUERIES", 64)
    real = jax.nn.dot_product_attention
    # cuDNN needs a GPU: XLA computes what it is asked for.
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *a, implementation, **k: real(*a, **k)
    )
    dtype = jnp.bfloat16 if name == "cudnn" else jnp.float32
    given = values(200, 330, dtype)
    seen = None if seen is None else jnp.array(seen)
    more = {"interpret": True} if name == "splash" else {}
    found = outcome(functools.partial(kernels.KERNELS[name], **more), *given, seen)
    expected = outcome(kernels.plain, *given, seen)
    atol = 3e-2 if name == "cudnn" else 2e-6
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(*(np.float32(x) for x in (a, b)), atol=atol)
    y = numpy_attention(*given[:3], seen)
    np.testing.assert_allclose(np.float32(found[0]), y, atol=max(atol, 1e-5))


def test_blocks_of_splash_attention_add_little():
    assert kernels.block_size(18432) == 1024 and kernels.block_size(2048) == 1024
    for tokens in (128, 512, 960, 1472, 1568, 13248, 14112):
        block = kernels.block_size(tokens)
        padded = -(-tokens // block) * block
        assert padded <= 1.1 * tokens or block == 128


def test_a_platform_has_its_kernel():
    config = {"dtype": "auto", "encoder": {"attention": "auto", "depth": 2}}
    found = {name: resolve_auto(config, name) for name in ("cpu", "gpu", "tpu")}
    chosen = {name: c["encoder"]["attention"] for name, c in found.items()}
    assert chosen == {"cpu": "chunked", "gpu": "cudnn", "tpu": "splash"}
    assert [c["dtype"] for c in found.values()] == ["float32", "bfloat16", "bfloat16"]
    config["encoder"]["attention"] = "flash"
    with pytest.raises(ValueError, match="encoder.attention is 'flash'; use 'auto'"):
        resolve_auto(config, "cpu")
