"""DINO-WM as a Method: predicts patches of a frozen encoder under actions.

arXiv 2411.04983, and the form of JEPA-WM (2512.24497) with AdaLN and rollouts in training. The
encoder is not trained: it comes from config.init_from.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core import optim
from core.method import Costs, Method, Tools
from core.nn import row_keys
from core.section import Section
from jepa.perf import flops
from jepa.weights import readers
from jepa.worlds import feature_evals, robot_clips
from jepa.worlds.clip_statistics import ClipStatistics
from jepa.worlds.dino_networks import Networks, make_networks
from jepa.worlds.feature_pictures import make_pictures
from jepa.worlds.feature_plan import make_acting
from jepa.worlds.frozen_features import (
    FOUND_IN,
    check_encoder,
    encoder_flops,
    features_of,
    init_encoder,
)
from jepa.worlds.planning import (
    Planning,
    bench_plans,
    make_plan_evaluation,
    make_planner_export,
)
from jepa.worlds.predictor_step import make_step

PREFIX_STREAM = 1 << 16  # of a row's keys; below it, dropout of each step of a rollout
PARTS = {
    "encoder": ("encoder",),
    "dynamics": ("params",),
    "statistics": ("statistics",),
    "opt": ("opt",),
}


@struct.dataclass
class State:
    """Weights, statistics, moments and counters of one run."""

    step: jax.Array
    params: dict  # "predictor", "action", and "proprio" with states
    encoder: dict  # frozen
    statistics: dict  # "action", "state" -> "mean", "std" of environment steps
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # consecutive updates that were not finite and not applied


def make_init(networks: Networks, statistics: ClipStatistics, widths: tuple[int, int]):
    """key -> State with boxed arrays; the encoder is random until weights are placed.

    widths: numbers of an action of a clip and of a state.
    """

    def init(key):
        first, second = jax.random.split(key)
        encoder = init_encoder(networks.encoder, networks.grid, first)
        params = networks.init(second, widths)
        known = jax.tree.map(jnp.asarray, statistics.numbers)
        zero = jnp.zeros((), jnp.int32)
        return State(zero, params, encoder, known, optim.adam_moments(params), zero)

    return init


def frozen_of(state: Any) -> dict:
    """What the loss reads without gradient."""
    return {"encoder": state.encoder, "statistics": state.statistics}


def weights_of(state: Any) -> dict:
    """What inference reads of a state."""
    return {**state.params, **frozen_of(state)}


def make_loss(networks: Networks, *, rollout: int, proprio: float):
    """(params, frozen, batch) -> (loss, (metrics, {})), means over the clips.

    The mean over `rollout` steps of squared errors. The first step predicts every frame from
    true ones. Step k predicts frame n + k - 1 from the first n, which are true, and from the
    predictions since, whose gradient is stopped (arXiv 2512.24497); n is drawn for
    each clip.

    Args:
      rollout: steps, 1 to the frames that a prediction sees. proprio: weight of the embedded
        proprioception beside patches.

    Raises ValueError for a rollout that is longer than a clip.
    """
    if not 1 <= rollout <= networks.history:
        raise ValueError(
            f"objective.rollout is {rollout}, but a clip has {networks.history + 1} frames; "
            f"use 1 to {networks.history}"
        )

    def loss_fn(params, frozen, batch):
        weights = {**params, **frozen}
        keys = batch["keys"]
        truth = jax.lax.stop_gradient(features_of(networks, frozen["encoder"], batch))
        frames = networks.observe(weights, truth, batch["state"])
        seen = jax.tree.map(lambda x: x[:, :-1], frames)
        wanted = jax.tree.map(lambda x: jax.lax.stop_gradient(x[:, 1:]), frames)
        T = networks.history
        assert batch["action"].shape[1] == T, (batch["action"].shape, T)

        def predict(seen, step):
            drop = row_keys.fold(keys, step) if networks.predictor.dropout else None
            return networks.predict(weights, seen, batch["action"], drop)

        guess = predict(seen, 0)
        errors = networks.error(guess, wanted, proprio)  # [B, T]
        total = errors.mean()
        metrics = {"loss_forced": total}
        if rollout > 1:
            first = draw_prefix(row_keys.fold(keys, PREFIX_STREAM), T - rollout + 1)
            seen = jax.lax.stop_gradient(seen)
            later = []
            for k in range(1, rollout):
                place = first + k - 1  # of the frame that was predicted last
                seen = with_frame(seen, jax.lax.stop_gradient(guess), place)
                guess = predict(seen, k)
                errors = networks.error(guess, wanted, proprio)
                later.append(jnp.take_along_axis(errors, place[:, None], 1).mean())
            metrics["loss_rollout"] = sum(later) / len(later)
            total = (total + sum(later)) / rollout
        still = networks.gap(truth[:, 1:], truth[:, :-1]).mean()
        return total, (metrics | {"loss": total, "loss_copy": still}, {})

    return loss_fn


def draw_prefix(keys, most: int) -> jax.Array:
    """How many frames of each clip are true, int [B] of 1 to `most`."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, most + 1))(keys)


def with_frame(seen: dict, guess: dict, place) -> dict:
    """Frames [B, T, ...], of which the one at `place` [B] is what is predicted of it.

    guess: the prediction of frame t + 1 at each t.
    """

    def one(x, y):
        at = jnp.arange(x.shape[1]) == place[:, None]
        return jnp.where(at[:, :, None, None], jnp.roll(y, 1, 1), x)

    return jax.tree.map(one, seen, guess)


def make(config: Section) -> Method:
    """The Method of a config from configs/dino_wm.py.

    Raises ValueError for values that do not fit each other or the trajectories.
    """
    batch, clip = config["batch"], config["clip"]
    networks = make_networks(config)
    plan = config["plan"].without("alpha").into(Planning)
    plan.check(clip["history"])
    read = robot_clips.make_read(config["data"], seed=config["seed"], skip=clip["skip"])
    frames = clip["history"] + 1
    records, _ = read("train", frames=frames)
    statistics = ClipStatistics(records, {"action": networks.steps, "state": 1})
    widths = tuple(statistics.first[name].shape[1] for name in ("action", "state"))
    init = make_init(networks, statistics, widths)
    step = make_update(config, networks, init)

    def moments(state, width):
        """Of environment actions; a sum is that of equal ones."""
        each = clip["skip"] // networks.steps
        return tuple(state.statistics["action"][k] / each for k in ("mean", "std"))

    acting = make_acting(
        networks,
        config,
        plan,
        widths,
        title="DINO-WM",
        params_of=weights_of,
        moments=moments,
        reach=0,
    )

    def source(split, shard, folder=None):
        check_encoder(config)
        return robot_clips.make_clip_source(
            split,
            shard,
            batch=batch,
            widths=widths,
            read=functools.partial(read, frames=frames),
        )

    return Method(
        init=init,
        step=step,
        source=source,
        evals=feature_evals.make_evals(
            networks, read=read, params_of=weights_of, config=config
        )
        | {
            "pictures": config["pictures"].into(
                make_pictures, networks=networks, read=read, params_of=weights_of
            ),
            "plan": make_plan_evaluation(acting, plan),
        },
        exports={
            "planner": make_planner_export(
                acting, plan, config=config, records=lambda: records
            )
        },
        batch=batch,
        unit="clips",
        frozen_fields=("step", "params", "encoder", "statistics"),
        parts=PARTS,
        found_in=FOUND_IN,
        readers=readers.make_readers(networks.encoder, networks.predictor),
        better=feature_evals.BETTER | {"pictures.*": "higher"},
        costs=make_costs(networks, config),
        tools=Tools(benches={"plan": bench_plans(acting, plan, init)}),
    )


def make_update(config: Section, networks: Networks, init):
    """The step of a config: (state, batch) -> (state, metrics)."""
    optimizer = config["optimizer"]
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=config["steps"])
        for name in ("lr", "decay")
    }
    return optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=config["objective"].into(make_loss, networks=networks),
        frozen=frozen_of,
        dtype=networks.predictor.dtype,
        accumulate=config["accumulate"],
        seed=config["seed"],
        **schedules,
    )


def make_costs(networks: Networks, config: Section) -> Costs:
    """What a step costs: one pass of the predictor per step of the rollout, and features."""
    predictor, T = networks.predictor, networks.history
    N = networks.views * networks.grid[0] * networks.grid[1]
    more = networks.proprio.width if networks.proprio else 0
    if config["conditioning"] == "feature":
        width = predictor.out + more + networks.action.width
        outer = 0
    else:
        width, outer = predictor.width + more, 4 * predictor.width * predictor.out
    inner = predictor.heads * predictor.head_dim
    per_token = predictor.depth * (
        2 * width * (4 * inner + 2 * predictor.hidden) + 4 * T * N * inner
    )
    passes = config["objective"]["rollout"]
    guesses = passes * T * N * (per_token + outer)
    seen = (T + 1) * networks.views * encoder_flops(networks.encoder, networks.grid)
    remat = getattr(predictor, "remat", "none")
    again = guesses if remat in ("block", "attention") else 0
    parts = config["accumulate"]
    return Costs(
        flops=float(config["batch"] * (3 * guesses + seen)),
        recomputed=float(config["batch"] * again),
        gathers={
            "params": parts * passes * (1 + (remat != "none")),
            "encoder": parts,
        },
        dtype=predictor.dtype,
        memory_hint=flops.memory_hint(remat),
    )
