"""Pictures of predicted features: a linear decoder per patch, fitted for looking alone.

The decoder of DINO-WM (arXiv 2411.04983) serves to look at predictions, too, and
nothing is trained through it. Here it is the ridge regression of each patch's pixels on its
features, solved in closed form: nothing of it is in the state.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.base.pictures import caption, tile, upscale
from core.data.episodes.trajectories import stack_windows
from core.evals.readout import in_batches
from core.method import UNWATCHED
from jepa.nets.model import patchify
from jepa.worlds.feature_model import FeatureModel

SPREAD = 1 << 20  # records over which the chosen ones are spread
PART = 16  # clips per call
RIDGE = 1e-3  # of the mean square of a feature, added to the squares
SHOWN_SIDE = 96  # least pixels per side of a shown frame


def make_pictures(
    networks: FeatureModel, read, params_of, *, clips: int, horizon: int, shown: int
):
    """state -> {"rollout": picture, "r2", "r2_predicted"} of validation clips.

    The picture has, for each of `shown` clips, the true frames, the frames decoded from their
    features, and those decoded from features that are predicted from the first frame with the
    recorded actions. r2: share of the variance of pixels over the clips that is decoded from
    true features; r2_predicted: from those `horizon` frames ahead.

    Args:
      clips: that the decoder is fitted to, and validation clips. horizon: frames ahead.
    """

    @functools.cache
    def batch(split):
        records, _ = read(split, frames=max(horizon + 1, 3))
        chosen = np.linspace(0, min(len(records), SPREAD) - 1, clips).astype(np.int64)
        found = stack_windows(records, chosen)
        if "image" not in found:
            raise ValueError(
                "the clips have features but no pictures, which the evaluation 'pictures' "
                "decodes to; name other evaluations, such as --eval=rollout"
            )
        return {name: found[name] for name in ("image", "action", "state")}

    see = jax.jit(functools.partial(features_and_predictions, networks))

    def pictures(state, watch=UNWATCHED):
        weights = params_of(state)
        run = functools.partial(see, weights)
        known, others = batch("train"), batch("validation")
        x, _ = in_batches(run, known, PART, watch=watch, what="clips to fit")
        decoder = fit(x, pixels_of(networks, known["image"]))
        x, guess = in_batches(run, others, PART, watch=watch, what="clips to show")
        wanted = pixels_of(networks, others["image"])
        decoded, predicted = decode(decoder, x), decode(decoder, guess)
        rows = []
        for i in range(min(shown, len(wanted))):
            for what, y in (
                ("true", wanted), ("decoded", decoded), ("predicted", predicted)
            ):  # fmt: skip
                frames = to_frames(y[i], networks, others["image"].shape)
                side = frames.shape[1]
                large = upscale(frames, max(1, -(-SHOWN_SIDE // side)))
                rows.append([caption(tile([list(large)], pad=2), what)])
        return {
            "rollout": tile(rows),
            "r2": explained(decoded, wanted),
            "r2_predicted": explained(predicted[:, -1], wanted[:, -1]),
        }

    return pictures


def features_and_predictions(networks: FeatureModel, weights, batch):
    """(features [B, T, V N, D], the first frame's and those predicted after it)."""
    truth = networks.encode(weights["encoder"], batch["image"])
    seen = networks.observe(weights, truth[:, :1], batch["state"][:, :1])
    guess = networks.open_loop(weights, seen, batch["action"])["features"]
    return truth, jnp.concatenate([truth[:, :1], guess], 1)


def pixels_of(networks, images) -> np.ndarray:
    """uint8 [B, T, V, H, W, 3] -> pixels 0..1 of the patches, float32 [B, T, V N, p]."""
    B, T, V, H, W, C = images.shape
    patch = (1, *networks.encoder.patch[1:])
    x = np.asarray(patchify(images.reshape(-1, 1, H, W, C), patch), np.float32) / 255
    return x.reshape(B, T, -1, x.shape[-1])


def to_frames(x, networks, shape) -> np.ndarray:
    """Pixels of patches [T, V N, p] -> uint8 [T, H, V W, 3], views beside each other."""
    T, (V, H, W, C) = len(x), shape[2:]
    h, w = networks.encoder.patch[1:]
    x = x.reshape(T, V, H // h, W // w, h, w, C).transpose(0, 2, 4, 1, 3, 5, 6)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(T, H, V * W, C)


def fit(x, y) -> np.ndarray:
    """Ridge regression of [..., p] on [..., D], with a constant: [D + 1, p]."""
    x, y = with_one(x), np.asarray(y, np.float64).reshape(-1, y.shape[-1])
    square = x.T @ x
    penalty = RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    penalty[-1] = 0  # the constant
    return np.linalg.solve(square + penalty, x.T @ y)


def decode(decoder, x) -> np.ndarray:
    """Features [..., D] -> pixels [..., p]."""
    return (with_one(x) @ decoder).reshape(*x.shape[:-1], -1)


def with_one(x) -> np.ndarray:
    """[..., D] -> float64 [n, D + 1], the last of them 1."""
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return np.concatenate([x, np.ones((len(x), 1))], 1)


def explained(found, wanted) -> float:
    """Share of the variance of pixels over the first axis; 1 is exact."""
    spread = np.square(wanted - wanted.mean(0)).mean()
    return float(1 - np.square(found - wanted).mean() / max(spread, 1e-12))
