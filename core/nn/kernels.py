"""Exact softmax attention in four implementations: plain, chunked, cuDNN, splash.

All take q [B, N, H, d] and keys and values [B, M, K, d] of one device, where K divides H:
query head h reads key head h // (H / K) (grouped queries, arXiv 2305.13245). Optional:

  seen: bool [B, M], the keys that count; None counts all.
  mask: which keys a query sees by position (core/nn/masks.py).
  offset: position of the first query among the keys, an int or a traced int32 scalar.

They return [B, N, H, d]. Softmax is float32. The output of a query that sees no key is
finite and means nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from core.nn.masks import FULL, Mask

Kernel = Callable[..., jax.Array]
Offset = int | jax.Array

VALID_FIRST = ("cudnn",)  # kernels that require the keys that count before the others
QUERIES = 512  # queries per chunk of `chunked`
STEPS = 32  # time steps that `cudnn` computes one by one
LANES = 128  # of a TPU: splash attention wants blocks that are multiples
BLOCKS = (1024, 512, 256, 128)  # block sizes of splash attention, the best first
PADDING = 0.1  # share of padding tokens that a larger block may add


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    seen: jax.Array | None = None,
    *,
    mask: Mask = FULL,
    offset: Offset = 0,
    kernel: str = "plain",
) -> jax.Array:
    """softmax(q k' / sqrt(d)) v by one of KERNELS: [B, N, H, d].

    Raises ValueError for an unknown kernel.
    """
    B, _, H, d = q.shape
    _, M, K, _ = k.shape
    assert k.shape == v.shape == (B, M, K, d) and H % K == 0, (
        q.shape,
        k.shape,
        v.shape,
    )
    if kernel not in KERNELS:
        raise ValueError(
            f"attention is {kernel!r}; expected 'auto' or one of {list(KERNELS)}"
        )
    y = KERNELS[kernel](q, k, v, seen, mask, offset)
    # The backward pass of these two recomputes the weights; fused kernels name what they
    # need themselves.
    return checkpoint_name(y, "attention") if kernel in ("plain", "chunked") else y


def plain(q, k, v, seen=None, mask: Mask = FULL, offset: Offset = 0):
    """All scores at once; the backward pass recomputes them."""
    return on_equal_heads(attention, q, k, v, seen, mask, offset)


def chunked(q, k, v, seen=None, mask: Mask = FULL, offset: Offset = 0):
    """Query-chunked attention; bounds score memory."""
    return on_equal_heads(attention_in_chunks, q, k, v, seen, mask, offset)


def on_equal_heads(kernel, q, k, v, seen, mask: Mask, offset: Offset):
    """kernel(q, k, v, seen, last) with as many heads of q as of k; last: int32 [N] or None.

    The queries of a group become rows of their key head: keys are not repeated.
    """
    B, N, H, d = q.shape
    K = k.shape[2]
    last = mask.last_key(offset + jnp.arange(N)) if mask.ordered else None
    if H == K:
        return kernel(q, k, v, seen, last)
    group = H // K
    rows = q.reshape(B, N, K, group, d).swapaxes(2, 3).reshape(B, N * group, K, d)
    last = None if last is None else jnp.repeat(last, group)
    y = kernel(rows, k, v, seen, last)
    return y.reshape(B, N, group, K, d).swapaxes(2, 3).reshape(B, N, H, d)


@jax.custom_vjp
def attention(q, k, v, seen=None, last=None):
    """Attention of equal heads; query n sees keys 0 to last[n]."""
    weights = attention_weights(q, k, seen, last)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def attention_weights(q, k, seen, last):
    """Softmax weights [B, H, N, M] in float32."""
    scores = jnp.einsum(
        "bqhd,bkhd->bhqk",
        q * q.shape[-1] ** -0.5,
        k,
        preferred_element_type=jnp.float32,
    )
    allowed = None if seen is None else seen[:, None, None, :]
    if last is not None:
        prefix = jnp.arange(k.shape[1]) <= last[:, None]
        allowed = prefix[None, None] if allowed is None else allowed & prefix
    if allowed is not None:
        scores = jnp.where(allowed, scores, -1e30)
    return jax.nn.softmax(scores)


def attention_fwd(q, k, v, seen=None, last=None):
    return attention(q, k, v, seen, last), (q, k, v, seen, last)


def attention_bwd(saved, dy):
    q, k, v, seen, last = saved
    weights = attention_weights(q, k, seen, last)
    dv = jnp.einsum("bhqk,bqhd->bkhd", weights.astype(v.dtype), dy)
    dweights = jnp.einsum("bqhd,bkhd->bhqk", dy, v, preferred_element_type=jnp.float32)
    along = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - along) * q.shape[-1] ** -0.5
    dscores = dscores.astype(q.dtype)
    dq = jnp.einsum("bhqk,bkhd->bqhd", dscores, k)
    dk = jnp.einsum("bhqk,bqhd->bkhd", dscores, q)
    return dq, dk, dv, None, None


attention.defvjp(attention_fwd, attention_bwd)


def attention_in_chunks(q, k, v, seen=None, last=None):
    """`attention` on at most QUERIES queries at a time."""
    B, N, H, d = q.shape
    if N <= QUERIES:
        return attention(q, k, v, seen, last)
    count = -(-N // QUERIES)
    size = -(-N // count)
    chunks = jnp.pad(q, ((0, 0), (0, count * size - N), (0, 0), (0, 0)))
    chunks = chunks.reshape(B, count, size, H, d).swapaxes(0, 1)
    if last is None:
        y = jax.lax.map(lambda part: attention(part, k, v, seen), chunks)
    else:
        last = jnp.pad(last, (0, count * size - N)).reshape(count, size)
        y = jax.lax.map(
            lambda part: attention(part[0], k, v, seen, part[1]), (chunks, last)
        )
    return y.swapaxes(0, 1).reshape(B, count * size, H, d)[:, :N]


def cudnn(q, k, v, seen=None, mask: Mask = FULL, offset: Offset = 0):
    """cuDNN's fused kernel of NVIDIA GPUs; falls back to `chunked` where it does not fit.

    The kernel supports 16-bit inputs only. It knows full and causal masks and a length of
    keys per row, so the keys that count must come first; any other mask would be an array
    of all scores. A block-causal mask is therefore one call per time step, on the keys up
    to that step. `chunked` runs for more than STEPS of them, for an ordered mask together
    with `seen`, and for an offset that is traced.
    """
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return chunked(q, k, v, seen, mask, offset)
    if not mask.ordered:
        length = None if seen is None else seen.sum(1)
        return fused(q, k, v, length)
    if seen is not None or not isinstance(offset, int):
        return chunked(q, k, v, seen, mask, offset)
    if mask.step_tokens == 1 and offset == 0:
        return fused(q, k, v, is_causal=True)
    last = np.minimum(mask.last_key(offset + np.arange(q.shape[1])), k.shape[1] - 1)
    ends, starts = np.unique(last, return_index=True)
    if len(ends) > STEPS:
        return chunked(q, k, v, seen, mask, offset)
    steps = [
        fused(part, k[:, : end + 1], v[:, : end + 1])
        for part, end in zip(jnp.split(q, starts[1:], axis=1), ends, strict=True)
    ]
    return jnp.concatenate(steps, axis=1)


def fused(q, k, v, length=None, *, is_causal: bool = False):
    """cuDNN's kernel; odd numbers of tokens, of which it has no gradient, get one more.

    length: int [B], the first keys that count; None counts all.
    """
    B, N, M = len(q), q.shape[1], k.shape[1]
    if M % 2 and length is None and not is_causal:  # the causal mask hides the last key
        length = jnp.full(B, M)

    def even(x):
        odd = x.shape[1] % 2
        return jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) if odd else x

    y = jax.nn.dot_product_attention(
        even(q), even(k), even(v), is_causal=is_causal, key_value_seq_lengths=length,
        implementation="cudnn",
    )  # fmt: skip
    return y[:, :N] if N % 2 else y


def splash(
    q,
    k,
    v,
    seen=None,
    mask: Mask = FULL,
    offset: Offset = 0,
    *,
    interpret: bool = False,
):
    """The fused Pallas kernel of TPUs; tokens are padded to whole blocks.

    Masks are evaluated by index inside the kernel, and blocks of keys that no query sees
    are skipped. Which blocks those are is fixed at compile time: `chunked` runs for an
    ordered mask with a traced offset, and `plain` for fewer than LANES tokens.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as lib

    B, N, H, d = q.shape
    M = k.shape[1]
    if mask.ordered and not isinstance(offset, int):
        return chunked(q, k, v, seen, mask, offset)
    if min(N, M) < LANES:
        return plain(q, k, v, seen, mask, offset)
    rows, cols = block_size(N), block_size(M)
    sizes: dict[str, Any] = dict.fromkeys(
        ("block_q", "block_q_dkv", "block_q_dq"), rows
    )
    names = ("kv", "kv_compute", "kv_dkv", "kv_dkv_compute", "kv_dq")
    sizes |= {f"block_{name}": cols for name in names}

    def pad_to_blocks(x, size):
        missing = -x.shape[1] % size
        return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))).swapaxes(1, 2)

    q = pad_to_blocks(q * d**-0.5, rows)
    k, v = pad_to_blocks(k, cols), pad_to_blocks(v, cols)
    shape = q.shape[2], k.shape[2]
    if mask.ordered:
        head_mask = lib.CausalMask(shape)
        # Its rule is q_sequence >= key index.
        last = mask.last_key(offset + np.arange(shape[0]))
        head_mask.q_sequence = np.minimum(last, M - 1).astype(np.int32)
    else:
        head_mask = lib.FullMask(shape)
    kernel = lib.make_splash_mha(
        lib.MultiHeadMask([head_mask] * H),
        head_shards=1,
        residual_checkpoint_name="attention",
        q_seq_shards=1,
        block_sizes=lib.BlockSizes(**sizes),
        interpret=interpret,
    )
    ids = None
    if seen is not None or (k.shape[2] > M and not mask.ordered):
        seen = jnp.ones((B, M), bool) if seen is None else seen
        seen = jnp.pad(seen, ((0, 0), (0, k.shape[2] - M)))
        every = jnp.ones((B, q.shape[2]), jnp.int32)
        ids = lib.SegmentIds(every, seen.astype(jnp.int32))
    batched: Any = jax.vmap(kernel)
    y = batched(q, k, v, ids)
    return y.swapaxes(1, 2)[:, :N].astype(v.dtype)


def block_size(tokens: int) -> int:
    """The largest block that adds little padding to this many tokens."""
    fits = (b for b in BLOCKS if -(-tokens // b) * b <= tokens * (1 + PADDING))
    return next(fits, LANES)


KERNELS: dict[str, Kernel] = {
    "plain": plain,
    "chunked": chunked,
    "cudnn": cudnn,
    "splash": splash,
}
