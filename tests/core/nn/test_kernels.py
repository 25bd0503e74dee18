"""The plain attention kernel against numpy, blocks of splash, the kernel of a platform."""

import jax.numpy as jnp
import numpy as np
import pytest

from core.config import resolve_auto
from core.nn import kernels

B, H, d = 2, 2, 64


def values(N, M):
    """Queries of N tokens, keys and values of M."""
    rng = np.random.default_rng(N)
    rows = (rng.standard_normal((B, n, H, d)) for n in (N, M, M))
    return [jnp.asarray(x, jnp.float32) for x in rows]


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
def test_plain_attention_is_that_of_numpy(seen):
    """The other kernels are compared in test_attention_masks.py."""
    q, k, v = values(200, 330)
    found = kernels.plain(q, k, v, None if seen is None else jnp.array(seen))
    np.testing.assert_allclose(found, numpy_attention(q, k, v, seen), atol=1e-5)


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
