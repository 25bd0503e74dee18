"""Evaluation "objects": what frozen features tell of the objects of recorded games.

Heads on the tokens of a clip predict where each object is, how it moves, and when and where the
ball turns next (core/data/games/windows.py): ridge regression on all tokens or V-JEPA's
attentive probe, from few labelled clips and from many. The same is read from raw pixels,
from the untrained encoder and from a supervised twin: an encoder trained with a linear layer
on these targets.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.base.names import choose
from core.data import source_names
from core.data.games.windows import Windows, read_windows
from core.evals import fit
from core.evals.classification import Options
from core.evals.extract import Features
from core.evals.measures import cell, difference, flat, measured
from core.evals.progress import progress_line, watched
from core.evals.readout import in_batches
from core.evals.regression import known_squares, predict_targets, work_of
from core.method import UNWATCHED, Watch
from core.parallel.layouts import unbox
from core.section import Section
from jepa.inputs.clips import FRAMES
from jepa.nets.encode import tokens_of

ENCODERS = ("trained", "untrained", "pixels", "twin")
SEEDS = (0, 1, 2)  # each draws labelled clips of its own
RATES, DECAYS = (1e-2, 3e-3, 1e-3), (0.01,)
GAIN = "gain"  # the name of the trained encoder's lead over the untrained one
PIXEL = 1 / 160  # of an Atari screen; targets that vary less are left out


def make_objects(
    encoder,
    grid,
    init,
    *,
    data: Section,
    seed,
    labels,
    heads,
    encoders,
    held_clips,
    horizon_s,
    twin,
    head_steps=500,
):
    """state -> R2 of each target by name ENCODER/TARGET/HEAD_LABELS.

    ENCODER "gain" is the R2 of the trained encoder minus that of the untrained one. `_low`
    and `_high` are the ends of 95% intervals over episodes, those of a gain over the same
    draws of episodes for both.

    Args:
      init: key -> boxed state, for the untrained encoder.
      data: of the config; its source is a camera of prepared games.
      labels: numbers of labelled clips that heads are fitted to; each of three seeds draws
        its own.
      heads: names in core.evals.regression.HEADS.
      encoders: names in ENCODERS; the two first ones, and any of the others.
      held_clips: clips that heads are scored on, of other episodes.
      horizon_s: seconds after a clip in which the ball may turn.
      twin: keywords of `fit_twin`, which takes the labels of all training clips.
      head_steps: of the attentive probes.
    """
    choose(encoders, dict.fromkeys(ENCODERS), "objects.encoders")
    if tuple(encoders[:2]) != ENCODERS[:2]:
        raise ValueError(
            f"objects.encoders is {', '.join(encoders)}; expected {', '.join(ENCODERS[:2])} "
            "first, which are compared"
        )
    options = Options(steps=head_steps, head_batch=32)

    @functools.cache
    def windows():
        return tuple(open_windows(data, s, horizon_s) for s in ("train", "validation"))

    encode = jax.jit(functools.partial(tokens_of, encoder, grid))

    def weights_of(name, state, train, watch):
        """The weights of an encoder, None for pixels."""
        if name in ("trained", "pixels"):
            return state.target if name == "trained" else None
        fresh = jax.jit(lambda: unbox(init(jax.random.key(seed))).target)()
        if name == "untrained":
            return fresh
        return fit_twin(encoder, grid, fresh, train, seed=seed, watch=watch, **twin)

    def evaluate(state, watch: Watch = UNWATCHED):
        train, held = windows()
        held = evenly(held, held_clips)
        chosen = draws(len(train), labels)
        rows = np.unique(np.concatenate(list(chosen.values())))
        pool = train.take(rows)
        chosen = {k: np.searchsorted(rows, some) for k, some in chosen.items()}
        names, guesses = varying(pool), {}
        for name in encoders:
            seen = functools.partial(encode, weights_of(name, state, train, watch))
            read = [features(seen, part, watch, name) for part in (pool, held)]
            for head, count in itertools.product(heads, labels):
                guesses |= {
                    f"{name}/{target}/{head}_{count}": guess
                    for target, guess in predictions(
                        head, read, (pool, held), names,
                        [chosen[count, s] for s in SEEDS], options, name, watch,
                    ).items()
                }  # fmt: skip
        found = findings(guesses, held)
        watch.say("\n" + table(found, names, heads, labels, encoders))
        return found

    return evaluate


def draws(clips: int, labels) -> dict[tuple[int, int], np.ndarray]:
    """(number of labels, seed) -> that many of the clips, rising; all if there are fewer."""
    return {
        (count, seed): np.sort(
            np.random.default_rng([count, seed]).choice(
                clips, min(count, clips), replace=False
            )
        )
        for count in labels
        for seed in SEEDS
    }


def predictions(head, read, parts, names, chosen, options: Options, what, watch):
    """target -> predictions of held-out clips [seeds, m, K], each seed from its own clips.

    Args:
      read: features of both parts, the pool of labelled clips and the held-out ones.
      chosen: per seed, rows of the pool.
    """
    pool, held = parts
    found = {name: [] for name in names}
    for seed, rows in zip(SEEDS, chosen, strict=True):
        one = options._replace(grid=fit.Grid(RATES, DECAYS, (seed,)))
        some = Features(read[0].tokens, rows, {})
        told = f"{what}: {head} {len(rows)}, seed {seed}"
        guesses = predict_targets(
            head,
            some,
            read[1],
            (
                {k: pool.targets[k][rows] for k in names},
                {k: held.targets[k] for k in names},
            ),
            options=one,
            groups=pool.episode[rows],
            progress=progress_line(told, work_of(head, one), watch),
        )
        for name, (guess, _) in guesses.items():
            found[name].append(guess)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def findings(guesses, held: Windows) -> dict[str, float]:
    """R2 of all predictions, by ENCODER/TARGET/HEAD_LABELS, and gains.

    ENCODER/position and ENCODER/velocity are means over the objects, of the last head and
    number of labels.
    """
    found, last = {}, {}
    for key, guess in guesses.items():
        name, rest = key.split("/", 1)
        target = rest.rsplit("/", 1)[0]
        truth = held.targets[target]
        found |= flat(key, "r2", measured("r2", guess, truth, held.episode))
        last.setdefault(f"{name}/{target.split('/')[0]}", {})[target] = found[key]
        if name == "trained":
            gain = difference(
                "r2", guess, guesses[f"untrained/{rest}"], truth, held.episode
            )
            found |= flat(f"{GAIN}/{rest}", "r2", gain)
    kinds = {k: x for k, x in last.items() if not k.endswith("/bounce")}
    return found | {k: float(np.mean([*x.values()])) for k, x in kinds.items()}


def table(found, names, heads, labels, encoders) -> str:
    """Markdown: a row per target, head and number of labels, a column per encoder."""
    columns = (*encoders[:2], GAIN, *encoders[2:])
    lines = [
        f"| target | head | labels | {' | '.join(columns)} |",
        "|---" * (len(columns) + 3) + "|",
    ]
    show = functools.partial(cell, found)
    for target, head, count in itertools.product(names, heads, labels):
        cells = (show(f"{name}/{target}/{head}_{count}") for name in columns)
        lines.append(f"| {target} | {head} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def open_windows(data: Section, split: str, horizon_s: float) -> Windows:
    """All labelled clips of a split of data.source. Raises ValueError for other sources."""
    kind, _, place = data["source"].removeprefix(FRAMES).partition(":")
    if kind != "camera":
        raise ValueError(
            f"data.source is {data['source']}; the evaluation objects reads camera:FOLDER "
            "with games that launch.prepare recorded --from=atari:GAME"
        )
    place, _, camera = place.partition("#")
    clip = {name: data[name] for name in ("frames", "fps", "size")}
    recordings = source_names.recordings(place, split)
    return read_windows(recordings, camera=camera, horizon_s=horizon_s, **clip)


def evenly(windows: Windows, count: int) -> Windows:
    """`count` clips, evenly over all episodes; all if there are fewer."""
    rows = np.linspace(0, len(windows) - 1, min(count, len(windows)))
    return windows.take(rows.astype(int))


def varying(windows: Windows) -> list[str]:
    """Names of targets that vary by more than a pixel, or a pixel per frame of a clip."""
    least = {"velocity": PIXEL * windows.rate}
    return [
        name
        for name, y in windows.targets.items()
        if np.nanstd(y, 0).max() > least.get(name.split("/")[0], PIXEL)
    ]


def features(encode, windows: Windows, watch: Watch, what: str) -> Features:
    """Tokens float16 [n, 1, N, D] of all clips. encode: uint8 clips -> tokens [b, N, D]."""
    rows = np.arange(len(windows))
    tokens = in_batches(
        lambda some: np.asarray(encode(windows.video(some)), np.float16),
        rows,
        watch=watch,
        what=f"{what}: clips",
    )
    return Features(tokens[:, None], rows, {})


def fit_twin(
    encoder, grid, params, windows, *, seed, steps, batch, lr, decay=0.01,
    watch=UNWATCHED,
):  # fmt: skip
    """The encoder's weights after training with a linear layer on all tokens and targets.

    AdamW on the mean squared error of targets with unit variance, on random clips.

    Args:
      params: the encoder's weights, which the caller keeps.
      steps: updates; batch: clips of each; lr: peak of their one-cycle rate.
    """
    targets = np.concatenate([windows.targets[k] for k in varying(windows)], 1)
    targets = (targets - np.nanmean(targets, 0)) / (np.nanstd(targets, 0) + 1e-6)
    head = nn.Dense(targets.shape[1])
    flat = jnp.zeros((1, int(np.prod(grid)) * encoder.width))
    weights = jax.jit(head.init)(jax.random.key(seed), flat)["params"]
    params = {"encoder": jax.tree.map(jnp.array, params), "head": weights}
    rate = optax.cosine_onecycle_schedule(steps, lr, 0.1)
    tx = optax.adamw(rate, weight_decay=decay)

    def loss_fn(params, video, y):
        tokens = tokens_of(encoder, grid, params["encoder"], video)
        guess = head.apply({"params": params["head"]}, tokens.reshape(len(tokens), -1))
        return known_squares(guess, y)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt, video, y):
        grads = jax.grad(loss_fn)(params, video, y)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    opt = jax.jit(tx.init)(params)
    rng = np.random.default_rng(seed)
    for _ in watched(range(steps), "twin: steps", watch):
        rows = rng.integers(len(windows), size=batch)
        params, opt = step(params, opt, windows.video(rows), targets[rows])
    return params["encoder"]
