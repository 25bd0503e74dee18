"""Masks and grouped queries: every kernel against a dense reference, both passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.nn import kernels
from core.nn.masks import CAUSAL, FULL, Mask, block_causal

B, d = 2, 64
FIRST = np.arange(330) < np.array([[330], [101]])
ANY = np.random.default_rng(0).random((2, 330)) < 0.5
ANY[:, 0] = True  # every query sees a key
MASKS = {"full": FULL, "causal": CAUSAL, "blocks": block_causal(72)}


def reference(q, k, v, seen, mask, offset):
    """Dense attention with repeated keys in float32, differentiated by JAX."""
    N, H, M, K = q.shape[1], q.shape[2], k.shape[1], k.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    k, v = (jnp.repeat(x, H // K, axis=2) for x in (k, v))
    query, key = offset + np.arange(N)[:, None], np.arange(M)
    allowed = np.ones((N, M), bool)
    if mask.step_tokens:
        allowed = key // mask.step_tokens <= query // mask.step_tokens
    allowed = np.broadcast_to(allowed, (B, 1, N, M))
    if seen is not None:
        allowed = allowed & seen[:, None, None]
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(d)
    weights = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def outcome(attend, *qkv, seen, mask, offset):
    """Attention, and the gradients of a random projection of it."""
    shape = *qkv[0].shape[:3], qkv[2].shape[-1]
    weight = np.random.default_rng(5).standard_normal(shape).astype(np.float32)

    def projected(*qkv):
        y = attend(*qkv, seen, mask, offset)
        return (y.astype(jnp.float32) * weight).sum(), y

    (_, y), grads = jax.value_and_grad(projected, (0, 1, 2), has_aux=True)(*qkv)
    return y, *grads


def xla_for_cudnn(monkeypatch, calls=None):
    """cuDNN needs a GPU: XLA computes what it is asked for."""
    real = jax.nn.dot_product_attention

    def attend(q, k, v, *, implementation, **options):
        assert implementation == "cudnn"
        # JAX refuses the gradient of others.
        assert q.shape[1] % 2 == k.shape[1] % 2 == 0, (q.shape, k.shape)
        if calls is not None:
            calls.append((q.shape[1], k.shape[1]))
        return real(q, k, v, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)


# (keys that count, heads, kv_heads, offset of an ordered mask)
CASES = {
    "all": (None, 2, 2, 0),
    "shared": (None, 2, 1, 130),
    "first": (FIRST, 4, 2, 0),
    "any": (ANY, 4, 2, 130),
}


def problem(mask, case, dtype):
    """(queries, keys and values, the other arguments of `outcome`) of a case."""
    seen, heads, kv_heads, offset = CASES[case]
    rng = np.random.default_rng(1)
    shapes = (B, 200, heads, d), (B, 330, kv_heads, d), (B, 330, kv_heads, d)
    qkv = [jnp.asarray(rng.standard_normal(s), dtype) for s in shapes]
    given = {"seen": seen, "mask": MASKS[mask]}
    return qkv, given | {"offset": offset if MASKS[mask].ordered else 0}


@functools.cache
def expected(mask, case, dtype):
    qkv, given = problem(mask, case, dtype)
    return jax.jit(functools.partial(outcome, reference, **given))(*qkv)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", kernels.KERNELS)
def test_kernels_equal_dense_attention(name, mask, case, monkeypatch):
    if name == "cudnn" and CASES[case][0] is ANY and not MASKS[mask].ordered:
        pytest.skip("cuDNN requires the keys that count first")
    monkeypatch.setattr(kernels, "QUERIES", 64)
    xla_for_cudnn(monkeypatch)
    dtype = jnp.bfloat16 if name == "cudnn" else jnp.float32
    kernel = kernels.KERNELS[name]
    if name == "splash":
        kernel = functools.partial(kernel, interpret=True)
    qkv, given = problem(mask, case, dtype)
    found = jax.jit(functools.partial(outcome, kernel, **given))(*qkv)
    for a, b in zip(found, expected(mask, case, dtype), strict=True):
        exact = 5e-6 if MASKS[mask].ordered else 2e-6
        atol = exact if dtype == jnp.float32 else 3e-2 * max(1, np.abs(b).max())
        np.testing.assert_allclose(np.float32(a), np.float32(b), atol=atol)


@pytest.mark.parametrize("name", kernels.KERNELS)
@pytest.mark.parametrize("mask", ["causal", "blocks"])
def test_a_traced_offset_gives_the_same_output(name, mask, monkeypatch):
    xla_for_cudnn(monkeypatch)
    rng = np.random.default_rng(1)
    dtype = jnp.bfloat16 if name == "cudnn" else jnp.float32
    q, k = (jnp.asarray(rng.standard_normal((B, n, 2, d)), dtype) for n in (24, 240))
    attend = functools.partial(kernels.attend, q, k, k, mask=MASKS[mask], kernel=name)
    found = jax.jit(lambda offset: attend(offset=offset))(72)
    expected = reference(q, k, k, None, MASKS[mask], 72)
    atol = 2e-2 if name == "cudnn" else 2e-6
    np.testing.assert_allclose(np.float32(found), expected, atol=atol)


def test_cudnn_computes_time_steps_on_the_keys_before_them(monkeypatch):
    calls = []
    xla_for_cudnn(monkeypatch, calls)
    x = jnp.ones((1, 10, 1, 8), jnp.bfloat16)
    kernels.cudnn(x, x, x, mask=block_causal(4))
    assert calls == [(4, 4), (4, 8), (2, 10)]
    calls.clear()
    kernels.cudnn(x, x, x, mask=CAUSAL)
    assert calls == [(10, 10)]
    calls.clear()
    monkeypatch.setattr(kernels, "STEPS", 2)
    kernels.cudnn(x, x, x, mask=block_causal(4))
    assert not calls


@pytest.mark.parametrize(
    ("mask", "seen"),
    [(FULL, None), (FULL, FIRST[:, 90:111]), (CAUSAL, None), (block_causal(16), None)],
)
def test_cudnn_is_given_even_numbers_of_tokens(mask, seen, monkeypatch):
    xla_for_cudnn(monkeypatch)
    rng = np.random.default_rng(2)
    qkv = [jnp.asarray(rng.standard_normal((B, 21, 1, d)), jnp.bfloat16)] * 3
    seen = None if seen is None else jnp.asarray(seen)
    given = {"seen": seen, "mask": mask, "offset": 0}
    found, expected = (
        jax.jit(functools.partial(outcome, f, **given))(*qkv)
        for f in (kernels.cudnn, reference)
    )
    for a, b in zip(found, expected, strict=True):
        atol = 3e-2 * max(1, np.abs(b).max())
        np.testing.assert_allclose(np.float32(a), np.float32(b), atol=atol)


def test_no_kernel_builds_a_mask_of_all_scores(monkeypatch):
    """Chunks compare indices; the program has no array of [N, M] or more."""
    monkeypatch.setattr(kernels, "QUERIES", 16)
    x = jax.ShapeDtypeStruct((1, 160, 1, 8), jnp.float32)
    run = jax.grad(lambda q, k, v: kernels.chunked(q, k, v, mask=block_causal(5)).sum())
    text = jax.jit(run).lower(x, x, x).as_text()
    assert "160x160" not in text and "16x160" in text


def test_wrong_masks_and_kernels_raise():
    with pytest.raises(ValueError, match="step_tokens is 0; expected 1 or more"):
        block_causal(0)
    with pytest.raises(ValueError, match="step_tokens is -1; expected 0 or more"):
        Mask(-1)
    x = jnp.ones((1, 4, 1, 8))
    with pytest.raises(
        ValueError, match="attention is 'flash'; expected 'auto' or one"
    ):
        kernels.attend(x, x, x, kernel="flash")
