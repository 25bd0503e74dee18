"""Symlog, two-hot and categorical distributions of DreamerV3 (arXiv 2301.04104), float32."""

import jax
import jax.numpy as jnp
import numpy as np

BINS = 255
UNIMIX = 0.01


def symlog(x: jax.Array) -> jax.Array:
    """sign(x) ln(1 + |x|)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: jax.Array) -> jax.Array:
    """sign(x) (exp |x| - 1), the inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def symexp_bins() -> np.ndarray:
    """The 255 bin values of a two-hot head, float32, dense around 0, exactly symmetric."""
    half = np.linspace(-20, 0, BINS // 2 + 1, dtype=np.float32)
    half = -np.expm1(-half)
    return np.concatenate([half, -half[:-1][::-1]])


def two_hot(y: jax.Array) -> jax.Array:
    """Targets [...] -> weights [..., 255] on the two bins around each target.

    The weights interpolate the value itself, not its symlog. Targets beyond the outer bins
    put all weight on the outer bin.
    """
    bins = jnp.asarray(symexp_bins())
    y = jnp.clip(y.astype(jnp.float32), bins[0], bins[-1])[..., None]
    low = jnp.clip((bins <= y).sum(-1, keepdims=True) - 1, 0, BINS - 2)
    left, right = bins[low], bins[low + 1]
    share = (y - left) / (right - left)
    place = jnp.arange(BINS)
    return jnp.where(place == low, 1 - share, 0) + jnp.where(place == low + 1, share, 0)


def two_hot_mean(logits: jax.Array) -> jax.Array:
    """Expected value of a two-hot head: [..., 255] -> [...].

    Sums mirrored bins first, so that equal logits give exactly 0.
    """
    p, half = jax.nn.softmax(logits.astype(jnp.float32)), BINS // 2
    bins = symexp_bins()[half + 1 :]
    return ((p[..., half + 1 :] - p[..., :half][..., ::-1]) * bins).sum(-1)


def two_hot_loss(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of a two-hot head [..., 255] to values y [...], without their gradient."""
    logp = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -(jax.lax.stop_gradient(two_hot(y)) * logp).sum(-1)


def unimix(logits: jax.Array, share: float = UNIMIX) -> jax.Array:
    """Log-probabilities of a mixture: softmax, and a `share` of the uniform distribution."""
    logits = logits.astype(jnp.float32)
    if not share:
        return jax.nn.log_softmax(logits)
    p = jax.nn.softmax(logits)
    return jnp.log((1 - share) * p + share / logits.shape[-1])


def straight_through_sample(logp: jax.Array, gumbel: jax.Array) -> jax.Array:
    """One-hot samples of logp [..., C], with the gradient of the probabilities.

    gumbel: standard Gumbel noise of the same shape; drawn outside scans, which is faster.
    """
    classes = logp.shape[-1]
    chosen = jax.nn.one_hot(jnp.argmax(logp + gumbel, -1), classes, dtype=jnp.float32)
    p = jnp.exp(logp)
    return chosen + p - jax.lax.stop_gradient(p)


def kl(logp: jax.Array, logq: jax.Array) -> jax.Array:
    """KL(p || q) of factorized categoricals [..., S, C], summed over the S groups: [...]."""
    return (jnp.exp(logp) * (logp - logq)).sum((-2, -1))


def entropy(logp: jax.Array) -> jax.Array:
    """Entropy in nats of categoricals over the last axis."""
    return -(jnp.exp(logp) * logp).sum(-1)


def binary_loss(logit: jax.Array, target) -> jax.Array:
    """Cross-entropy of a Bernoulli logit to a target probability in [0, 1]."""
    logit = logit.astype(jnp.float32)
    return -(
        target * jax.nn.log_sigmoid(logit) + (1 - target) * jax.nn.log_sigmoid(-logit)
    )
