"""Scores of heads that regress named targets from features: settings chosen, intervals."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from core.base.names import choose
from core.evals import fit
from core.evals.classification import SELECT_ONE_IN, Options, heads_of
from core.evals.extract import Features
from core.evals.heads import EPS, AttentiveHead
from core.evals.measures import MEASURES, measured
from core.nn.layers import LayerNorm

# Relative to the mean squared length of a clip's standardized features.
PENALTIES = tuple(10 ** (k / 2) for k in range(-10, 5))
COLUMNS = 1 << 12  # features that are standardized at once, in float64

Targets = Mapping[str, np.ndarray]


class PlacedHead(nn.Module):
    """The attentive head on normalized tokens plus a learned vector per token.

    Without it the head could not say where something is unless features encode places.
    """

    outputs: int
    heads: int

    @nn.compact
    def __call__(self, tokens):
        """[B, N, D] -> [B, outputs]."""
        place = self.param("place", nn.initializers.normal(0.5), tokens.shape[1:])
        x = LayerNorm(EPS, name="norm")(tokens) + place
        return AttentiveHead(self.outputs, 1, self.heads, name="attentive")(x)


def score_targets(
    head: str,
    train: Features,
    validation: Features,
    targets: tuple[Targets, Targets],
    *,
    options: Options,
    groups: tuple[Any, Any] = (None, None),
    measures: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda step: None,
) -> dict[str, dict[str, Any]]:
    """Numbers of one head by target: its measure, interval, seeds and settings.

    Arguments as of `predict_targets`; the validation groups are drawn together for
    intervals.

    Returns:
      target -> {measure: mean over seeds, "interval": 95% bootstrap, "seeds": [...]} and
      the setting.
    """
    found = predict_targets(
        head, train, validation, targets, options=options, groups=groups[0],
        measures=measures, progress=progress,
    )  # fmt: skip
    return {
        name: measured(
            measure_of(measures, name), predicted, targets[1][name], groups[1]
        )
        | setting
        for name, (predicted, setting) in found.items()
    }


def predict_targets(
    head: str,
    train: Features,
    validation: Features,
    targets: tuple[Targets, Targets],
    *,
    options: Options,
    groups: Any = None,
    measures: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda step: None,
) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """What one head predicts of the validation clips, by target.

    Settings are chosen per target on a fifth of the training clips or groups: ridge then
    fits all of them, and each seed chooses on another fifth; trained heads stay as fitted
    on the rest, and seeds are of their initial weights.

    Args:
      head: "ridge" on all tokens side by side, "ridge_mean" on the mean token,
        "attentive1" on tokens, V-JEPA's probe with a learned vector per token, trained on
        all targets together.
      targets: of both parts, by name: float [n, K] for the n clips that could be read;
        NaN where a target is undefined. K outputs each.
      groups: of the training clips, [n], of those that are alike, such as those of an
        episode: they are never divided by a choice.
      measures: target -> name in MEASURES, "r2" if it has none.
      progress: called with what is done, of `work_of`.

    Returns:
      target -> (predictions [seeds, m, K], its setting: "penalty" per seed, or "rate",
      "decay" and "spread", the range over all settings).

    Raises ValueError for an unknown head and a target that is known for too few clips.
    """
    for part, features in zip(targets, (train, validation), strict=True):
        check_targets(part, len(features.rows))
    groups = np.arange(len(train.rows)) if groups is None else np.asarray(groups)
    named = {name: measure_of(measures, name) for name in targets[0]}
    solve = choose([head], dict(HEADS), "head")[head]
    return solve(head, train, validation, targets, options, groups, named, progress)


def measure_of(measures: Mapping[str, str] | None, target: str) -> str:
    """The name of a target's measure."""
    return (measures or {}).get(target, "r2")


def work_of(head: str, options: Options) -> int:
    """What `progress` counts up to."""
    if head == "attentive1":
        return options.steps * len(options.grid.settings())
    return len(options.grid.seeds) + 1


def check_targets(targets: Targets, rows: int) -> None:
    """Raise ValueError for a target that no regression can be fitted to or scored on."""
    for name, y in targets.items():
        assert y.ndim == 2 and len(y) == rows, (name, y.shape, rows)
        known = int(np.isfinite(y).sum(0).min())
        if known < 2 * SELECT_ONE_IN:
            raise ValueError(
                f"target {name} is known for {known} of {rows} clips; expected at least "
                f"{2 * SELECT_ONE_IN}: use more clips or leave the target out"
            )


def selection(groups, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(rows to fit, rows to choose settings): every fifth group, beginning with `seed`."""
    _, group = np.unique(groups, return_inverse=True)
    held = group % SELECT_ONE_IN == seed % SELECT_ONE_IN
    if held.all() or not held.any():  # too few groups: chosen on what is fitted
        return np.arange(len(group)), np.arange(len(group))
    return np.flatnonzero(~held), np.flatnonzero(held)


def by_ridge(head, train, validation, targets, options, groups, measures, progress):
    """target -> (predictions [seeds, m, K], {"penalty": per seed})."""
    inner, queries = inner_products(train, validation, mean=head == "ridge_mean")
    progress(1)
    y, columns = side_by_side(targets[0])
    found = {name: ([], []) for name in columns}
    fits = ridge(inner, queries, y)
    for i, seed in enumerate(options.grid.seeds):
        rest, held = selection(groups, seed)
        guess = ridge(inner[np.ix_(rest, rest)], inner[np.ix_(held, rest)], y[rest])
        for name, part in columns.items():
            ones, truth = np.ones((1, len(held))), y[held][:, part]
            scores = [
                MEASURES[measures[name]](ones, p[:, part], truth)[0] for p in guess
            ]
            best = int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))
            found[name][0].append(fits[best][:, part])
            found[name][1].append(PENALTIES[best])
        progress(i + 2)
    return {k: (np.stack(p), {"penalty": chosen}) for k, (p, chosen) in found.items()}


def inner_products(train: Features, validation: Features, *, mean: bool):
    """(of training clips [n, n], of validation with training clips [m, n]), float64.

    Of features with mean 0 and deviation 1 over the training clips; features that are
    constant there do not count. mean: of the mean token in place of all tokens.
    """
    n, m = len(train.rows), len(validation.rows)
    inner, queries = np.zeros((n, n)), np.zeros((m, n))
    tokens, width = train.tokens.shape[2:]
    step = tokens if mean else max(1, COLUMNS // width)
    for start in range(0, tokens, step):
        x, z = (
            part.tokens[part.rows, part.tokens.shape[1] // 2, start : start + step]
            .astype(np.float64)
            .reshape(len(part.rows), -1, width)
            for part in (train, validation)
        )
        x, z = (a.mean(1) if mean else a.reshape(len(a), -1) for a in (x, z))
        middle, std = x.mean(0), x.std(0)
        std = np.where(std > 1e-9 * np.abs(middle).max(initial=0), std, np.inf)
        x, z = (x - middle) / std, (z - middle) / std
        inner += x @ x.T
        queries += z @ x.T
    return inner, queries


def ridge(inner, queries, targets, penalties=PENALTIES) -> np.ndarray:
    """Predictions of ridge regressions with an intercept, by penalty: [P, m, K].

    Solved in closed form for the clips' weights, so that the number of features does not
    matter, by one decomposition for all penalties. A column is fitted to the clips whose
    target is known.

    Args:
      inner: products of the features of n clips [n, n]; queries: of m others with them.
      targets: [n, K], NaN where unknown.
      penalties: on squared weights, relative to the mean squared length of the clips'
        centered features.
    """
    found = np.full((len(penalties), len(queries), targets.shape[1]), np.nan)
    known, which = np.unique(np.isfinite(targets), axis=1, return_inverse=True)
    for i, rows in enumerate(known.T):
        columns = np.flatnonzero(which.reshape(-1) == i)
        if not rows.any():
            continue
        y = targets[rows][:, columns].astype(np.float64)
        k, q = inner[np.ix_(rows, rows)], queries[:, rows]
        # Products after the mean of these clips is subtracted from all features.
        middle = k.mean(0)
        q = q - q.mean(1, keepdims=True) - middle + middle.mean()
        k = k - middle - middle[:, None] + middle.mean()
        values, vectors = np.linalg.eigh(k)
        values = values.clip(min=0)
        loadings, q = vectors.T @ (y - y.mean(0)), q @ vectors
        scale = max(values.mean(), 1e-30)
        for p, penalty in enumerate(penalties):
            weights = loadings / (values + penalty * scale)[:, None]
            found[p][:, columns] = q @ weights + y.mean(0)
    return found


def by_attention(head, train, validation, targets, options, groups, measures, progress):
    """target -> (predictions [seeds, m, K], {"rate", "decay", "spread"})."""
    y, columns = side_by_side(targets[0])
    rest, held = selection(groups)
    middle, std = np.nanmean(y[rest], 0), np.nanstd(y[rest], 0) + 1e-6
    labels = ((y[rest] - middle) / std).astype(np.float32)
    width = train.tokens.shape[-1]
    module = PlacedHead(y.shape[1], heads_of(width))

    def take(rows):
        return train.tokens[train.rows[rest[rows]], train.tokens.shape[1] // 2]

    settings, seeds = options.grid.settings(), len(options.grid.seeds)
    size = fit.heads_at_once(module, take(np.arange(1)), options.head_gigabytes)
    size = min(size, len(settings))
    guesses: tuple[list, list] = ([], [])
    asked = ((train, train.rows[held]), (validation, validation.rows))
    for start in range(0, len(settings), size):
        params = fit.fit_heads(
            module,
            fit.batches_of(take, labels, batch=options.head_batch, steps=options.steps),
            settings=settings[start : start + size],
            steps=options.steps,
            loss=known_squares,
            progress=lambda step, start=start: progress(
                min(start * options.steps + step * size, len(settings) * options.steps)
            ),
        )
        for guess, (part, rows) in zip(guesses, asked, strict=True):
            guess.append(outputs(module, params, part, rows) * std + middle)
    chosen, scored = (
        np.concatenate(g).reshape(-1, seeds, *g[0].shape[1:]) for g in guesses
    )
    found = {}
    for name, part in columns.items():
        measure = MEASURES[measures[name]]

        def share(predicted, truth, part=part, measure=measure):
            """Of every setting, the mean over seeds."""
            ones = np.ones((1, len(truth)))
            return np.asarray(
                [
                    np.mean([measure(ones, p[:, part], truth)[0] for p in seed])
                    for seed in predicted
                ]
            )

        choice = np.nan_to_num(share(chosen, y[held][:, part]), nan=-np.inf)
        best, all_of = int(np.argmax(choice)), share(scored, targets[1][name])
        setting = settings[best * seeds]
        found[name] = (
            scored[best][..., part],
            {
                "rate": setting.rate,
                "decay": setting.decay,
                "spread": [float(all_of.min()), float(all_of.max())],
            },
        )
    return found


def side_by_side(targets: Targets) -> tuple[np.ndarray, dict[str, slice]]:
    """(float64 [n, sum of K], target -> its columns)."""
    ends = np.cumsum([y.shape[1] for y in targets.values()])
    columns = {
        name: slice(int(end) - y.shape[1], int(end))
        for (name, y), end in zip(targets.items(), ends, strict=True)
    }
    return np.concatenate([*targets.values()], 1).astype(np.float64), columns


def known_squares(outputs, targets):
    """Mean squared error over the targets that are not NaN: [b, K], [b, K] -> []."""
    known = jnp.isfinite(targets)
    # A NaN that is selected away after the difference would still reach the gradient.
    error = outputs.astype(jnp.float32) - jnp.where(known, targets, 0)
    error = jnp.where(known, error, 0)
    return jnp.square(error).sum() / jnp.maximum(known.sum(), 1)


def outputs(module, params, features: Features, rows) -> np.ndarray:
    """Outputs of every head for the middle view: float64 [heads, clips, K]."""
    found = []
    for part in np.array_split(rows, max(1, -(-len(rows) // 64))):
        x = features.tokens[part, features.tokens.shape[1] // 2]
        found.append(fit.outputs_of(module, params, np.asarray(x, np.float32)))
    return np.concatenate(found, 1).astype(np.float64)


HEADS: Mapping[str, Callable[..., Any]] = {
    "ridge": by_ridge,
    "ridge_mean": by_ridge,
    "attentive1": by_attention,
}
