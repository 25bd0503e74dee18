"""Softmax attention, exact, in four ways: whichever suits the machine.

All take q [B, N, H, d], keys and values [B, M, H, d] of a device's own part, and `seen`,
bool [B, M], the keys that count; None counts all. Softmax is in float32.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

FIRST = ("cudnn",)  # kernels that want the keys that count before the others
QUERIES = 512  # that `chunked` takes at a time
LANES = 128  # of a TPU: splash attention wants blocks that are multiples
BLOCKS = (1024, 512, 256, 128)  # of splash attention, the best first
PADDING = 0.1  # of the tokens that a larger block may add


def attend(q, k, v, seen=None, *, kernel: str = "plain"):
    """softmax(q k' / sqrt(d)) v by one of KERNELS: [B, N, H, d]."""
    B, N, H, d = q.shape
    assert k.shape == v.shape == (B, k.shape[1], H, d), (q.shape, k.shape, v.shape)
    if kernel not in KERNELS:
        raise ValueError(
            f"attention is {kernel!r}; use 'auto' or one of {list(KERNELS)}"
        )
    y = KERNELS[kernel](q, k, v, seen)
    # What the gradient of these two wants besides is cheap; the fused ones keep more.
    return checkpoint_name(y, "attention") if kernel in ("plain", "chunked") else y


@jax.custom_vjp
def plain(q, k, v, seen=None):
    """All scores at once; the gradient computes them anew."""
    return jnp.einsum("bhqk,bkhd->bqhd", weights_of(q, k, seen).astype(v.dtype), v)


def weights_of(q, k, seen):
    """Softmax weights [B, H, N, M] in float32."""
    scores = jnp.einsum(
        "bqhd,bkhd->bhqk",
        q * q.shape[-1] ** -0.5,
        k,
        preferred_element_type=jnp.float32,
    )
    if seen is not None:
        scores = jnp.where(seen[:, None, None, :], scores, -1e30)
    return jax.nn.softmax(scores)


def plain_fwd(q, k, v, seen=None):
    return plain(q, k, v, seen), (q, k, v, seen)


def plain_bwd(saved, dy):
    q, k, v, seen = saved
    weights = weights_of(q, k, seen)
    dv = jnp.einsum("bhqk,bqhd->bkhd", weights.astype(v.dtype), dy)
    dweights = jnp.einsum("bqhd,bkhd->bhqk", dy, v, preferred_element_type=jnp.float32)
    along = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - along) * q.shape[-1] ** -0.5
    dscores = dscores.astype(q.dtype)
    dq = jnp.einsum("bhqk,bkhd->bqhd", dscores, k)
    dk = jnp.einsum("bhqk,bqhd->bkhd", dscores, q)
    return dq, dk, dv, None


plain.defvjp(plain_fwd, plain_bwd)


def chunked(q, k, v, seen=None):
    """Some queries after others, so that scores of a few alone are in memory."""
    B, N, H, d = q.shape
    if N <= QUERIES:
        return plain(q, k, v, seen)
    count = -(-N // QUERIES)
    size = -(-N // count)
    parts = jnp.pad(q, ((0, 0), (0, count * size - N), (0, 0), (0, 0)))
    parts = parts.reshape(B, count, size, H, d).swapaxes(0, 1)
    y = jax.lax.map(lambda part: plain(part, k, v, seen), parts)
    return y.swapaxes(0, 1).reshape(B, count * size, H, d)[:, :N]


def cudnn(q, k, v, seen=None):
    """cuDNN's fused kernel of NVIDIA GPUs; it knows 16 bits alone, others are `chunked`.

    Keys that count come first: a mask of any other form would be an array of all scores.
    """
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return chunked(q, k, v, seen)
    length = None if seen is None else seen.sum(1)
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=length, implementation="cudnn"
    )


def splash(q, k, v, seen=None, *, interpret: bool = False):
    """The fused Pallas kernel of TPUs; tokens are padded to whole blocks."""
    from jax.experimental.pallas.ops.tpu import splash_attention as lib

    B, N, H, d = q.shape
    M = k.shape[1]
    if min(N, M) < LANES:
        return plain(q, k, v, seen)
    rows, cols = block_of(N), block_of(M)
    sizes = dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), rows)
    names = ("kv", "kv_compute", "kv_dkv", "kv_dkv_compute", "kv_dq")
    sizes |= {f"block_{name}": cols for name in names}

    def blocks(x, size):
        missing = -x.shape[1] % size
        return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))).swapaxes(1, 2)

    q, k, v = blocks(q * d**-0.5, rows), blocks(k, cols), blocks(v, cols)
    mask = lib.MultiHeadMask([lib.FullMask((q.shape[2], k.shape[2]))] * H)
    kernel = lib.make_splash_mha(
        mask,
        head_shards=1,
        residual_checkpoint_name="attention",
        q_seq_shards=1,
        block_sizes=lib.BlockSizes(**sizes),
        interpret=interpret,
    )
    ids = None
    if seen is not None or k.shape[2] > M:
        seen = jnp.ones((B, M), bool) if seen is None else seen
        seen = jnp.pad(seen, ((0, 0), (0, k.shape[2] - M)))
        every = jnp.ones((B, q.shape[2]), jnp.int32)
        ids = lib.SegmentIds(every, seen.astype(jnp.int32))
    y = jax.vmap(kernel)(q, k, v, ids)
    return y.swapaxes(1, 2)[:, :N].astype(v.dtype)


def block_of(tokens: int) -> int:
    """The largest block that adds little padding to this many tokens."""
    fits = (b for b in BLOCKS if -(-tokens // b) * b <= tokens * (1 + PADDING))
    return next(fits, LANES)


KERNELS = {"plain": plain, "chunked": chunked, "cudnn": cudnn, "splash": splash}
