"""Signs of collapse, measured on a fixed validation batch."""

import functools

import jax
import jax.numpy as jnp

from core.evals.collapse import LEAST_STD, health_alarms, verdict
from core.evals.statistics import effective_rank
from core.nn.layers import normalize
from core.nn.token_order import take
from jepa.losses.masked import per_pattern
from jepa.nets.model import coordinates, patchify, standardize

# What the line of the verdict shows of masked prediction, and what is expected.
SHOWN = {
    "target_std": f"over inputs; 1 is the most, {LEAST_STD} collapse",
    "rank_pooled": "directions that clips differ in",
    "copy_ratio": "below 1, prediction is better than copying",
}


def nearest_visible(context, context_valid, target, grid):
    """Position in `context` of the valid token nearest to each target on the grid.

    context, context_valid: [B, C]; target: token indices [B, M]. Returns int [B, M].
    """
    a, b = coordinates(target, grid), coordinates(context, grid)
    away = jnp.square(a[:, :, None] - b[:, None]).sum(-1)
    away = jnp.where(context_valid[:, None], away, jnp.iinfo(away.dtype).max)
    return away.argmin(-1)


def compare(encoder, predictor, masker, mask_tokens, params, target, batch):
    """Normalized features of all tokens, predictions at hidden and at visible tokens.

    [B, N, D], [B, M, D], [B, C, D]; a visible token is predicted from a mask token too.
    """
    grid, sizes = masker.grid, masker.sizes("context")
    patches = standardize(patchify(batch["video"], encoder.patch))
    seen = batch["context"]
    features = encoder.apply(
        {"params": params["encoder"]},
        take(patches, seen),
        seen,
        grid=grid,
        valid=batch["context_valid"],
        segments=sizes,
    )
    truth = encoder.apply({"params": target}, patches, grid=grid)

    def predict(name):
        return predictor.apply(
            {"params": params["predictor"]},
            features,
            seen,
            batch[name],
            grid=grid,
            use=mask_tokens,
            context_sizes=sizes,
            target_sizes=masker.sizes(name),
            context_valid=batch["context_valid"],
            target_valid=batch[f"{name}_valid"],
        )

    return normalize(truth, eps=1e-5), predict("target"), predict("context")


def make_health(encoder, predictor, masker, *, mask_tokens, batch):
    """`make_panel` of an encoder and a predictor of hidden tokens.

    mask_tokens: number of the mask token of each pattern.
    """
    networks = functools.partial(compare, encoder, predictor, masker, mask_tokens)
    return make_panel(networks, masker, width=encoder.width, batch=batch)


def make_panel(compare, masker, *, width, batch):
    """state -> {"alarms": sentences, and these numbers}.

    target_std: deviation of normalized target features over clips and tokens, mean over
      channels. target_std_clips: over clips at one place; near 0 if features encode only
      their position.
    rank_tokens, rank_pooled: effective ranks over tokens and over clip means.
    loss_masked, loss_visible: errors at hidden tokens, and at those of the context.
    copy_ratio: loss_masked over the error of copying the nearest visible target feature.
    ema_distance: relative distance between the weights of target and encoder.

    Args:
      compare: (params, target, batch) -> truth and predictions as the function `compare`.
      width: channels of the encoder's output, the last ones of the truth.
      batch: () -> the validation batch, always the same.
    """
    grid, sizes = masker.grid, masker.sizes("context")

    @jax.jit
    def measure(params, target, batch):
        truth, guess, visible = compare(params, target, batch)
        seen, hidden = batch["context"], batch["target"]
        valid, seen_valid = batch["target_valid"], batch["context_valid"]
        nearby, start = [], 0
        targets = per_pattern(hidden, masker.sizes("target"))
        for index, n in zip(targets, sizes, strict=True):
            mine = slice(start, start + n)
            row = nearest_visible(seen[:, mine], seen_valid[:, mine], index, grid)
            nearby.append(jnp.take_along_axis(seen[:, mine], row, 1))
            start += n
        copied = take(truth, jnp.concatenate(nearby, 1))
        masked = mean_error(guess, take(truth, hidden), valid)
        drift = jax.tree.map(
            lambda a, b: jnp.square(a - b).sum(), target, params["encoder"]
        )
        size = jax.tree.map(lambda a: jnp.square(a).sum(), params["encoder"])
        total = lambda tree: sum(jax.tree.leaves(tree))  # noqa: E731
        last = truth[..., -width:]
        scalars = {
            "loss_masked": masked,
            "loss_visible": mean_error(visible, take(truth, seen), seen_valid),
            "copy_ratio": masked / mean_error(copied, take(truth, hidden), valid),
            "target_std": last.std((0, 1)).mean(),
            "target_std_clips": last.std(0).mean(),
            "ema_distance": jnp.sqrt(total(drift) / total(size)),
        }
        return scalars, last.mean(1), last.reshape(-1, width)

    def health(state, watch):
        if state.params["predictor"] is None:
            raise ValueError(
                "health needs a predictor, which these weights lack; name other "
                "evaluations, such as --eval=probe"
            )
        validation = batch()
        scalars, pooled, tokens = measure(state.params, state.target, validation)
        scalars = {k: float(v) for k, v in scalars.items()}
        step = max(1, len(tokens) // 4096)
        scalars["rank_pooled"] = effective_rank(pooled)
        scalars["rank_tokens"] = effective_rank(tokens[::step])
        known = {"width": width, "rank_samples": len(pooled)}
        alarms = health_alarms(scalars | known)
        watch.say(verdict(scalars, alarms, SHOWN))
        return scalars | {"alarms": alarms}

    return health


def mean_error(guess, truth, valid):
    """Mean absolute error over valid tokens: [B, M, D], [B, M, D], bool [B, M] -> []."""
    error = jnp.abs(guess.astype(jnp.float32) - truth).mean(-1)
    return (error * valid).sum() / jnp.maximum(valid.sum(), 1)
