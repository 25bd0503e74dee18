"""Predictions in frozen features: open-loop error by horizon, and the energy of actions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.data.episodes.trajectories import stack_windows
from core.evals.readout import in_batches
from core.method import UNWATCHED
from core.section import Section
from jepa.worlds.feature_model import FeatureModel
from jepa.worlds.frozen_features import features_of
from jepa.worlds.windows import PLACE

SPREAD = 1 << 20  # records over which the evaluated ones are spread
PART = 16  # clips per call
BETTER = {
    "rollout.copy_ratio*": "lower",
    "rollout.action_error": "lower",
    "rollout.shuffled_ratio": "higher",
    "rollout.*": "",
}
SHARE = 0.01  # of the tried actions, whose mean is the action of least energy


def make_evals(networks: FeatureModel, *, read, params_of, config: Section) -> dict:
    """The evaluation "rollout" by name.

    read: (split, frames=) -> (records of clips, ...). params_of: state -> weights.
    """
    given = {"networks": networks, "read": read, "params_of": params_of}
    return {"rollout": config["rollout"].into(make_rollout, **given)}


def make_rollout(
    networks: FeatureModel, read, params_of, *, clips: int, horizon: int, tried: int
):
    """state -> findings on validation clips of `horizon` + 1 frames.

    error_H, copy_ratio_H: mean error (`gap`) of the features H frames after the first one,
    predicted from it with the recorded actions, and that error over the error of the first
    frame's features. shuffled_ratio: the error at the horizon with the actions of other
    clips, over that with their own; 1 if actions are ignored. action_error: distance from
    the true first action to the one of least energy (arXiv 2506.09985, figure 9) among
    `tried` of the data's actions, over the range of actions, the mean over numbers and clips;
    action_error_random: that of a random one.

    Args:
      clips: how many. horizon: frames, 1 or more. tried: actions per clip.
    """

    @functools.cache
    def batch():
        records, _ = read("validation", frames=max(horizon + 1, 3))
        chosen = np.linspace(0, min(len(records), SPREAD) - 1, clips).astype(np.int64)
        found = stack_windows(records, chosen)
        return {name: x for name, x in found.items() if name != PLACE}

    measure = jax.jit(functools.partial(errors, networks))
    energies = jax.jit(functools.partial(energy, networks))

    def rollout(state, watch=UNWATCHED):
        weights, known = params_of(state), batch()
        error, copied, shuffled = in_batches(
            functools.partial(measure, weights), known, PART, watch=watch, what="clips"
        )
        error, copied = error.mean(0), copied.mean(0)
        found = {}
        for h in range(len(error)):
            found[f"error_{h + 1}"] = float(error[h])
            found[f"copy_ratio_{h + 1}"] = float(error[h] / max(copied[h], 1e-9))
        found["shuffled_ratio"] = float(shuffled.mean() / max(error[-1], 1e-9))
        return found | least_energy(
            functools.partial(energies, weights), known, tried, watch
        )

    return rollout


def errors(networks: FeatureModel, weights, batch):
    """(error, that of copying the first frame, that at the end with others' actions).

    [B, H], [B, H], [B]: mean errors of features.
    """
    truth = features_of(networks, weights["encoder"], batch)
    seen = networks.observe(weights, truth[:, :1], batch["state"][:, :1])
    roll = functools.partial(networks.open_loop, weights, seen)
    guess, other = roll(batch["action"]), roll(jnp.roll(batch["action"], 1, 0))
    error = networks.gap(guess["features"], truth[:, 1:]).mean((2, 3))
    copied = networks.gap(truth[:, :1], truth[:, 1:]).mean((2, 3))
    last = networks.gap(other["features"][:, -1], truth[:, -1]).mean((1, 2))
    return error, copied, last


def energy(networks: FeatureModel, weights, batch):
    """Error of the second frame for each of the actions tried, [B, tried].

    batch: image or features [B, 2, ...], state, tried [B, tried, A].
    """
    truth = features_of(networks, weights["encoder"], batch)
    seen = networks.observe(weights, truth[:, :1], batch["state"][:, :1])
    tried = batch["tried"]
    B, n, A = tried.shape
    guess = networks.open_loop(
        weights,
        jax.tree.map(lambda x: jnp.repeat(x, n, 0), seen),
        tried.reshape(B * n, 1, A),
    )["features"]
    error = networks.gap(guess.reshape(B, n, *guess.shape[2:]), truth[:, None, 1])
    return error.mean((2, 3))


def least_energy(energies, known: dict, tried: int, watch) -> dict[str, float]:
    """action_error and its control, of `make_rollout`."""
    rng = np.random.default_rng(0)
    pool = known["action"].reshape(-1, known["action"].shape[-1])
    true = known["action"][:, 0]
    choices = pool[rng.integers(len(pool), size=(len(true), tried))]
    seen = {k: x[:, :2] for k, x in known.items() if k != "action"}
    given = seen | {"tried": choices}
    cost = in_batches(energies, given, PART, watch=watch, what="energies")
    best = np.argsort(cost, 1)[:, : max(1, round(SHARE * tried))]
    found = np.take_along_axis(choices, best[:, :, None], 1).mean(1)
    width = np.ptp(pool, 0)
    moving = width > 1e-6
    scale = np.maximum(width, 1e-6)

    def distance(action):
        return float((np.abs(action - true) / scale)[:, moving].mean())

    return {
        "action_error": distance(found),
        "action_error_random": distance(choices[:, 0]),
    }
