"""Evaluations of latent world models without plans: health, a probe of positions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.data.episodes.trajectories import stack_windows
from core.evals.collapse import health_alarms
from core.evals.extract import Features
from core.evals.measures import flat
from core.evals.readout import in_batches
from core.evals.regression import Options, score_targets
from core.evals.statistics import effective_rank
from jepa.losses.sigreg import sigreg
from jepa.worlds.clip_statistics import normalized
from jepa.worlds.latent_world import LatentWorld
from jepa.worlds.windows import PLACE

SPREAD = 1 << 20  # records over which the evaluated ones are spread
PART = 64  # clips per call
BETTER = {
    "probe.*": "higher",
    "health.loss_prediction": "lower",
    "health.copy_ratio": "lower",
    "health.rollout_ratio": "lower",
    "health.rank": "higher",
    "health.*": "",
}


def make_evals(world: LatentWorld, *, read, frames: int, config) -> dict:
    """The evaluations "health" and "probe" by name.

    read: (split, frames=) -> (records of clips, ...), as of jepa.worlds.block_clips.make_read.
    frames: of a clip. config: of the method, with sections of those names.
    """

    @functools.cache
    def clips(split, count):
        records, _ = read(split, frames=frames)
        chosen = np.linspace(0, min(len(records), SPREAD) - 1, count).astype(np.int64)
        return stack_windows(records, chosen)

    return {
        "health": config["health"].into(make_health, world=world, clips=clips),
        "probe": config["probe"].into(make_probe, world=world, clips=clips),
    }


def make_health(world: LatentWorld, clips, *, count: int):
    """state -> {"alarms": sentences, and numbers of `count` validation clips}.

    loss_prediction: mean squared error of the next latent, from true ones. copy_ratio: over
    that of the last latent. rollout_ratio: the error of latents that are rolled out from the
    first one over the clip, over that of the first one. sigreg: about 1.05 for a standard
    normal, 0.402 times the clips for a single point. std_min, std_median: deviation over
    clips and frames, by dimension. rank: effective rank of the latents. shuffled_ratio: the
    error with the actions of other clips, over that with their own; 1 if actions are ignored.
    """
    measure = jax.jit(functools.partial(compare, world))

    def health(state, watch):
        batch = clips("validation", count)
        batch = {name: batch[name] for name in ("image", "action")}
        z, guess, other, rolled = in_batches(
            functools.partial(measure, world.weights_of(state)),
            batch,
            PART,
            watch=watch,
            what="latents",
        )
        wanted, rows = z[:, 1:], z.reshape(-1, z.shape[-1])
        error = mean_square(guess - wanted)
        std = rows.std(0)
        found = {
            "loss_prediction": error,
            "copy_ratio": error / max(mean_square(z[:, :-1] - wanted), 1e-12),
            "rollout_ratio": mean_square(rolled - wanted)
            / max(mean_square(z[:, :1] - wanted), 1e-12),
            "shuffled_ratio": mean_square(other - wanted) / max(error, 1e-12),
            "sigreg": float(sigreg(jnp.asarray(z).swapaxes(0, 1), jax.random.key(0))),
            "std_min": float(std.min()),
            "std_median": float(np.median(std)),
            "rank": effective_rank(rows),
        }
        known = {
            "target_std": float(std.mean()),
            "rank_tokens": found["rank"],
            "copy_ratio": found["copy_ratio"],
            "width": z.shape[-1],
        }
        return found | {"alarms": health_alarms(known)}

    return health


def mean_square(x: np.ndarray) -> float:
    """Mean of the squares of all numbers."""
    return float(np.square(x).mean())


def compare(world: LatentWorld, weights, batch):
    """(latents [B, T, D], then three guesses of those after the first [B, T - 1, D]: from true
    ones, from true ones with the actions of other clips, and rolled out).
    """
    blocks = normalized(batch["action"], weights["actions"], world.skip)
    z = world.encode(weights, batch["image"])
    guess = world.predict(weights, z[:, :-1], blocks)
    other = world.predict(weights, z[:, :-1], jnp.roll(blocks, 1, 0))
    return z, guess, other, world.roll(weights, z[:, :1], blocks)


def make_probe(world: LatentWorld, clips, *, train: int, validation: int):
    """state -> R2 of positions read from latents by ridge regression, with an interval.

    train, validation: clips that it is fitted to and measured on, one frame of each. Raises
    ValueError for data without positions.
    """
    encode = jax.jit(world.encode)

    def probe(state, watch):
        features, targets = [], []
        for split, count in (("train", train), ("validation", validation)):
            batch = clips(split, count)
            if PLACE not in batch:
                raise ValueError(
                    f"the trajectories have no {PLACE!r}, which the probe reads; name "
                    "other evaluations, such as --eval=health"
                )
            z = in_batches(
                functools.partial(encode, world.weights_of(state)),
                batch["image"][:, 0],
                PART,
                watch=watch,
                what=split,
            )
            place = batch[PLACE][:, 0].reshape(len(z), -1)
            features.append(Features(z[:, None, None], np.arange(len(z)), {}))
            targets.append({"position": place.astype(np.float64)})
        found = score_targets("ridge", *features, tuple(targets), options=Options())
        return flat("position", "r2", found["position"])

    return probe
