"""Evaluations of LeWorldModel without plans: health of the latents, a probe of positions."""

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
from jepa.worlds.lewm_networks import normalize_blocks
from jepa.worlds.windows import PLACE

SPREAD = 1 << 20  # records over which the evaluated ones are spread
PART = 64  # clips per call


def make_evals(networks, *, read, config) -> dict:
    """The evaluations "health" and "probe" by name.

    read: (split, frames=) -> (records of clips, ...), as of lewm_data.make_clips.
    """
    frames = config["clip"]["history"] + 1

    @functools.cache
    def clips(split, count):
        records, _ = read(split, frames=frames)
        chosen = np.linspace(0, min(len(records), SPREAD) - 1, count).astype(np.int64)
        return stack_windows(records, chosen)

    return {
        "health": config["health"].into(make_health, networks=networks, clips=clips),
        "probe": config["probe"].into(make_probe, networks=networks, clips=clips),
    }


def make_health(networks, clips, *, count: int):
    """state -> {"alarms": sentences, and numbers of `count` validation clips}.

    loss_prediction: mean squared error of the next latent, teacher-forced, with the running
    statistics of batch norm. copy_ratio: over that of the last latent. sigreg: about 1.05
    for a standard normal, 0.402 times the clips for a single point. std_min, std_median:
    deviation over clips and frames, by dimension. rank: effective rank of the latents.
    shuffled_ratio: the error with the actions of other clips, over that with their own; 1
    if actions are ignored.
    """
    measure = jax.jit(functools.partial(compare, networks))

    def health(state, watch):
        batch = clips("validation", count)
        batch = {name: batch[name] for name in ("image", "action")}
        z, guess, other = in_batches(
            functools.partial(measure, weights_of(state)),
            batch,
            PART,
            watch=watch,
            what="latents",
        )
        wanted, rows = z[:, 1:], z.reshape(-1, z.shape[-1])
        error = float(np.square(guess - wanted).mean())
        std = rows.std(0)
        found = {
            "loss_prediction": error,
            "copy_ratio": error
            / max(float(np.square(z[:, :-1] - wanted).mean()), 1e-12),
            "shuffled_ratio": float(np.square(other - wanted).mean())
            / max(error, 1e-12),
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


def weights_of(state) -> dict:
    """What inference reads of a state."""
    return {"params": state.params, "norms": state.norms, "actions": state.actions}


def compare(networks, weights, batch):
    """(latents [B, T, D], next latents [B, T - 1, D], the same with others' actions)."""
    params, norms = weights["params"], weights["norms"]
    blocks = normalize_blocks(batch["action"], weights["actions"], networks.skip)
    z, _ = networks.encode(params, batch["image"], norms)
    guess, _ = networks.predict(params, z[:, :-1], blocks, norms)
    other, _ = networks.predict(params, z[:, :-1], jnp.roll(blocks, 1, 0), norms)
    return z, guess, other


def make_probe(networks, clips, *, train: int, validation: int):
    """state -> R2 of positions read from latents by ridge regression, with an interval.

    train, validation: clips that it is fitted to and measured on, one frame of each. Raises
    ValueError for data without positions.
    """

    @jax.jit
    def latents(weights, images):
        return networks.encode(weights["params"], images, weights["norms"])[0]

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
                functools.partial(latents, weights_of(state)),
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
