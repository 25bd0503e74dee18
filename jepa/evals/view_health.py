"""Signs of collapse of LeVJEPA: SIGReg against its floor, deviations, effective ranks."""

import jax
import jax.numpy as jnp

from core.evals.collapse import health_alarms, verdict
from core.evals.statistics import effective_rank
from jepa.losses.sigreg import sigreg

# Of a standard normal of any size and dimension; a single point has 0.402 N (sigreg.py).
FLOOR, POINT = 1.05, 0.402
# Above this share of what a point has, most of the embeddings are one point.
MOST_SIGREG = 0.5
SHOWN = {
    "sigreg_held": f"{FLOOR} is a standard normal, {POINT} N a single point",
    "embedding_std": "per dimension; 1 is a standard normal",
    "rank_embeddings": "directions of the embeddings",
    "rank_pooled": "directions of the features",
}


def make_health(measure, *, width: int, batch):
    """state -> {"alarms": sentences, and these numbers}, of the validation batch.

    sigreg_held: mean over views. sigreg_ratio: over its floor. invariance_held: mean square
    distance of the views to the global one. embedding_std, embedding_std_min: deviation
    over clips per dimension of the global view's embeddings, median and least.
    rank_embeddings: their effective rank; rank_pooled: that of the summary tokens before
    the projector.

    Args:
      measure: (params, batch) -> (features [B, V, D], embeddings [B, V, P]).
      width: D. batch: () -> the validation batch, always the same.
    """

    @jax.jit
    def numbers(params, batch):
        features, z = measure(params, batch)
        std = z[:, 0].std(0)
        scalars = {
            "sigreg_held": sigreg(z.swapaxes(0, 1), jax.random.key(0)),
            "invariance_held": jnp.square(z[:, :1] - z).mean(),
            "embedding_std": jnp.median(std),
            "embedding_std_min": std.min(),
        }
        return scalars, features[:, 0], z[:, 0]

    def health(state, watch):
        if state.params["projector"] is None:
            raise ValueError(
                "health needs the projector, which these weights lack; name other "
                "evaluations, such as --eval=probe"
            )
        scalars, features, z = numbers(state.params, batch())
        scalars = {name: float(x) for name, x in scalars.items()}
        scalars["sigreg_ratio"] = scalars["sigreg_held"] / FLOOR
        scalars["rank_embeddings"] = effective_rank(z)
        scalars["rank_pooled"] = effective_rank(features)
        alarms = sigreg_alarms(scalars["sigreg_held"], len(z))
        alarms += health_alarms(
            {
                "rank_pooled": scalars["rank_pooled"],
                "rank_samples": len(z),
                "width": width,
            }
        )
        watch.say(verdict(scalars, alarms, SHOWN))
        return scalars | {"alarms": alarms}

    return health


def sigreg_alarms(value: float, samples: int) -> list[str]:
    """A sentence if the embeddings of `samples` clips are close to one point."""
    most = MOST_SIGREG * POINT * samples
    if value < most:
        return []
    return [
        f"embeddings have collapsed: SIGReg is {value:.3g}, {POINT * samples:.3g} is a single "
        f"point, {FLOOR} a standard normal"
    ]
