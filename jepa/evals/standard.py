"""Evaluations of V-JEPA: health, pictures, read-outs of bodies or objects, baselines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.base.pictures import draw_points, tile
from core.data.loading.pipeline import make_source
from core.evals.progress import watched
from core.method import UNWATCHED, Frozen, Watch
from core.parallel.layouts import unbox
from core.section import Section
from jepa.evals import probe
from jepa.evals.health import make_health
from jepa.evals.objects import make_objects
from jepa.evals.patch_readouts import make_dense
from jepa.evals.physical import make_physical
from jepa.evals.pictures import make_pictures, zoom_of
from jepa.evals.twins import make_twins
from jepa.inputs.clips import make_records
from jepa.nets.encode import tokens_of

PICTURED = 4  # clips in the picture of a probe's predictions
FITTING = (
    1 << 21
)  # added to the seed: clips for the probe, which no encoder is trained on


def make_evals(
    encoder,
    predictor,
    masker,
    init,
    read,
    *,
    use,
    frozen: Frozen,
    config: Section,
    health=make_health,
) -> dict:
    """name -> core.method.Eval; "objects" if the config has a section of this name.

    Args:
      init: key -> boxed state, for the untrained encoder.
      read: jepa.inputs.clips.make_train_source with masker, seed and data given.
      use: number of the mask token of each pattern.
      health: what makes the evaluation "health", with the arguments of `make_health`.
    """
    shared = {
        "masker": masker,
        "batch": make_validation_batch(
            read, size=config["held_batch"], data=config["data"]
        ),
    }
    found = make_world_evals(encoder, masker.grid, init, frozen=frozen, config=config)
    return found | {
        "health": health(encoder, predictor, mask_tokens=use, **shared),
        "pictures": make_pictures(encoder, **shared),
    }


def make_validation_batch(read, *, size: int, data: Section):
    """() -> the first `size` validation samples, always the same ones, read once.

    read: (split, shard, batch=, data=) -> core.method.Source.
    """

    @functools.cache
    def validation_batch():
        source = read("validation", (0, 1), batch=size, data=data.replace(workers=0))
        batch = source.next()
        source.close()
        return batch

    return validation_batch


def make_world_evals(
    encoder, grid, init, *, frozen: Frozen, config: Section, clips: int = 0
) -> dict:
    """The evaluations that need an encoder and clips of the embedded world or of games.

    Args:
      encoder: any of the family's; grid: its tokens of a clip.
      init: key -> boxed state with `target`, the weights that are evaluated.
      clips: whose labels the supervised twin sees in a step unless `probe.twin_clips` says
        it; 0: `batch`.
    """
    data, seed = config["data"], config["seed"]
    world = functools.partial(data.into, make_records)
    worlds = {
        "train": world(split="world", seed=seed + FITTING)[0],
        "validation": world(split="world_validation", seed=seed)[0],
    }
    probing = config["probe"]
    score = probing.without("twin_clips").into(
        make_score, encoder=encoder, grid=grid, **worlds
    )
    # Runs of older versions lack some of these fields, and the second section.
    given = probing["twin_clips"] if "twin_clips" in probing else 0
    clips = given or clips or config["batch"]
    sizes = config["physical"] if "physical" in config else Section({})
    with_twin = sizes["twin"] if "twin" in sizes else False
    shared = sizes.without("pairs", "cell", "twin")

    def labelled():
        records, pipeline = world(split="world", seed=seed)
        return make_source(records, batch=clips, **pipeline)

    untrained = make_untrained(init, seed=seed)
    twin = once_a_step(make_twin(encoder, grid, source=labelled), untrained)
    games = {}
    if "objects" in config:
        known = {"encoder": encoder, "grid": grid, "init": init}
        games["objects"] = config["objects"].into(
            make_objects, data=data, seed=seed, **known
        )
    return games | {
        "probe": make_probe(score),
        "baselines": make_baselines(score, untrained, twin),
        "physical": shared.into(make_physical, frozen=frozen, **worlds),
        "dense": sizes.without("pairs", "twin").into(
            make_dense,
            frozen=frozen,
            grid=grid,
            patch=encoder.patch,
            twin=twin if with_twin else None,
            **worlds,
        ),
        "surprise": sizes.without(*shared, "cell", "twin").into(
            make_twins, surprise=frozen.surprise, world=worlds["validation"]
        )
        if frozen.surprise
        else refuse_surprise,
    }


def refuse_surprise(state, watch):
    """The evaluation "surprise" of a method that `frozen.surprise` does not cover."""
    raise ValueError("--eval=surprise needs the predictor of jepa.pretrain")


def clips_of(records, count: int, watch: Watch) -> dict:
    """The first `count` labelled clips of the world, stacked.

    video uint8 [n, T, H, W, 3]; position and velocity float32 [n, T, K, 2].
    """
    rows = watched(range(count), "drawing labelled clips", watch)
    items = [records.load(i) for i in rows]
    names = ("video", "position", "velocity")
    return {name: np.stack([item[name] for item in items]) for name in names}


def make_score(
    encoder,
    grid,
    *,
    train,
    validation,
    train_clips,
    held_clips,
    steps,
    batch,
    lr,
    tubelet=(0, 0, 0),
):
    """score(params, watch, what) -> ({"position": R2, "velocity": R2}, picture).

    params: an encoder's weights, or None to probe raw tubelets. picture: of the predictions.

    Args:
      train, validation: records of the embedded world, to fit and to score the probe on.
      train_clips, held_clips: how many of each are used; they are rendered once and kept.
      steps, batch, lr: the probe's training.
      tubelet: frames, rows and columns whose tokens are one token of the probe, channels
        side by side, so that probes of encoders with other patches are alike; (0, 0, 0) is
        the encoder's patch.

    Raises ValueError for a tubelet that is no multiple of the encoder's patch.
    """
    factor = tokens_in(tubelet if any(tubelet) else encoder.patch, encoder.patch, grid)
    merged = tuple(n // f for n, f in zip(grid, factor, strict=True))
    fit = {"steps": steps, "batch": batch, "lr": lr}
    drawn: dict[str, dict] = {}  # those of a part, once they are drawn

    def clips(part, records, count, watch):
        if part not in drawn:
            drawn[part] = clips_of(records, count, watch)
        return drawn[part]

    readout = probe.Readout(bodies=train.bodies, grid=merged, frames=train.frames)

    @jax.jit  # compiled once for all weights
    def tokens(params, video):
        return merge(tokens_of(encoder, grid, params, video), merged, factor)

    def score(params, watch, what):
        fitted = clips("train", train, train_clips, watch)
        scored = clips("validation", validation, held_clips, watch)
        encode = functools.partial(tokens, params)
        scores, predicted = probe.probe(
            encode, fitted, scored, readout, watch=watch, what=what, **fit
        )
        names = ("position", "velocity")
        picture = draw_predictions(scored, predicted, seconds=1 / train.fps)
        return dict(zip(names, scores, strict=True)), picture

    return score


def tokens_in(tubelet, patch, grid) -> tuple[int, ...]:
    """Tokens of `patch` in a tubelet of a grid, along time, row and column.

    Raises ValueError if they do not fill it, or if tubelets do not fill the grid.
    """
    factor = tuple(a // b for a, b in zip(tubelet, patch, strict=True))
    rests = [a % b for a, b in zip(tubelet, patch, strict=True)]
    if any(rests) or any(n % max(f, 1) for n, f in zip(grid, factor, strict=True)):
        raise ValueError(
            f"probe.tubelet is {tuple(tubelet)}, but a token has {tuple(patch)} frames, "
            f"rows and columns, and a clip {tuple(grid)} tokens; expected multiples of the "
            "one that divide the clip"
        )
    return factor


def merge(tokens, grid, factor):
    """Tokens [B, N, D] -> those of each tubelet side by side, [B, N / f, f D].

    grid: of tubelets; factor: tokens of a tubelet along each axis, f in all.
    """
    B, _, D = tokens.shape
    (t, h, w), (a, b, c) = grid, factor
    x = tokens.reshape(B, t, a, h, b, w, c, D).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(B, t * h * w, a * b * c * D)


def make_probe(score):
    """state -> R2 of a probe on the frozen target encoder, and a picture of its predictions.

    score: what `make_score` returns.
    """

    def evaluate(state, watch):
        scores, picture = score(state.target, watch, "probe")
        return {f"trained/{k}": v for k, v in scores.items()} | {"reading": picture}

    return evaluate


def make_baselines(score, untrained, twin):
    """state -> R2 of the same probe on raw tubelets, untrained encoder, supervised twin.

    Args:
      score: what `make_score` returns.
      untrained: () -> an encoder's first weights.
      twin: (state, watch) -> the weights of an encoder that was trained on labels.
    """

    def evaluate(state, watch):
        found = {"pixels": None, "untrained": untrained(), "twin": twin(state, watch)}
        return {
            f"{name}/{k}": v
            for name, params in found.items()
            for k, v in score(params, watch, f"baseline {name}")[0].items()
        }

    return evaluate


def make_untrained(init, *, seed: int):
    """() -> the encoder's weights before training; init: key -> boxed state."""
    return jax.jit(lambda: unbox(init(jax.random.key(seed))).target)


def once_a_step(train, untrained):
    """(state, watch) -> the supervised twin, trained for as many steps as the state.

    The newest is kept, so that evaluations of one state share it.

    Args:
      train: what `make_twin` returns. untrained: () -> the weights that it starts from.
    """
    kept: dict[int, dict] = {}  # step -> weights

    def twin(state, watch):
        step = int(state.step)
        if step not in kept:
            kept.clear()
            kept[step] = train(untrained(), step, watch)
        return kept[step]

    return twin


def make_twin(encoder, grid, *, source, lr=1e-3, decay=0.01):
    """train(params, steps, watch) -> the encoder's weights, trained with the probe on labels.

    source: () -> a source of batches with video, position and velocity. lr: of 3e-4, 1e-3,
    3e-3 and 1e-2, 3e-3 gives the best probe after 1500 steps of `tiny`, by .003 over 1e-3.
    """

    def train(params, steps, watch):
        batches = source()
        try:
            return fit_twin(encoder, grid, params, batches, steps, lr, decay, watch)
        finally:
            batches.close()

    return train


def fit_twin(
    encoder, grid, params, batches, steps: int, lr: float, decay: float, watch=UNWATCHED
):
    """Train encoder and readout end to end on labels of unit variance, with AdamW.

    Args:
      encoder: jepa.nets.model.Encoder; grid: its tokens along time, row, column (t, h, w).
      params: the encoder's weights, which the caller keeps.
      batches: core.method.Source of video uint8 [B, T, H, W, 3], position and velocity
        float32 [B, T, K, 2] of K bodies. T must be a multiple of t.
      steps: updates; lr: peak of their one-cycle rate; decay: of all weights.
      watch: for lines of progress.

    Returns:
      the encoder's new weights.
    """
    batch = batches.next()
    T, K = batch["position"].shape[1:3]
    assert T % grid[0] == 0, (T, grid)
    readout = probe.Readout(bodies=K, grid=grid, frames=T)
    mean, std = probe.moments(probe.labels_of(batch))
    tokens = jnp.zeros((1, int(np.prod(grid)), encoder.width))
    weights = jax.jit(readout.init)(jax.random.key(0), tokens)["params"]
    params = {"encoder": params, "readout": weights}
    rate = optax.cosine_onecycle_schedule(steps, lr, 0.1)
    tx = optax.adamw(rate, weight_decay=decay)

    def loss_fn(params, video, labels):
        tokens = tokens_of(encoder, grid, params["encoder"], video)
        guess = readout.apply({"params": params["readout"]}, tokens)
        return jnp.square(guess - labels).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt, video, labels):
        grads = jax.grad(loss_fn)(params, video, labels)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    params = jax.tree.map(jnp.array, params)  # copies, because the step donates them
    opt = jax.jit(tx.init)(params)
    for _ in watched(range(steps), "supervised twin: steps", watch):
        labels = (probe.labels_of(batch) - mean) / std
        params, opt = step(params, opt, batch["video"], labels)
        batch = batches.next()
    return params["encoder"]


def draw_predictions(clips, predicted, seconds: float):
    """uint8 picture [H, W, 3]: true and predicted bodies on the frames of the first clips.

    predicted: [n, T, K, 4] as `probe.labels_of`. seconds: between frames.
    """
    rows = [
        draw_points(
            clips["video"][i],
            clips["position"][i],
            predicted[i, ..., :2],
            true_velocity=clips["velocity"][i],
            predicted_velocity=predicted[i, ..., 2:],
            seconds=seconds,
            scale=zoom_of(clips["video"][i]),
        )
        for i in range(PICTURED)
    ]
    return tile(rows)
