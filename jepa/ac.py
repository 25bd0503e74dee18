"""V-JEPA 2-AC as a Method: predicts frozen features from actions (arXiv 2506.09985, section 3).

The encoder is not trained: it comes from config.init_from. Cameras and robots are lists, so
that one model serves several of each.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from core import optim
from core.method import Costs, Method, Tools
from core.section import Section
from jepa.perf import flops
from jepa.weights import readers
from jepa.worlds import feature_evals, robot_clips
from jepa.worlds.ac_networks import Networks, make_networks
from jepa.worlds.feature_plan import make_acting
from jepa.worlds.frozen_features import (
    FOUND_IN,
    PARTS,
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


@struct.dataclass
class State:
    """Weights, moments and counters of one run."""

    step: jax.Array
    params: dict  # "predictor"
    encoder: dict  # frozen
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # consecutive updates that were not finite and not applied


def make_init(networks: Networks, widths: tuple[int, int]):
    """key -> State with boxed arrays; the encoder is random until weights are placed."""

    def init(key):
        keys = jax.random.split(key)
        predictor = networks.predictor
        encoder = init_encoder(networks.encoder, networks.grid, keys[0])
        tokens = predictor.views * networks.grid[0] * networks.grid[1]
        A, S = widths
        second = predictor.init(
            keys[1],
            jnp.zeros((1, 1, tokens, predictor.out)),
            jnp.zeros((1, 1, A)),
            jnp.zeros((1, 1, S)),
            grid=networks.grid,
            embodiment=networks.embodiment,
        )
        params = {"predictor": second["params"]}
        zero = jnp.zeros((), jnp.int32)
        opt = optim.adam_moments(params)
        return State(zero, params, encoder, opt, zero)

    return init


def make_loss(networks: Networks, *, rollout: int):
    """(params, encoder, batch) -> (loss, (metrics, {})), means over the clips.

    Mean absolute error of the next features from true ones, and from those predicted over
    `rollout` steps: from frame 0 on, with the recorded states. The gradient of the second
    passes through its first prediction, which is that of the first term.

    Raises ValueError for a rollout that is longer than a clip.
    """
    if rollout < 1:
        raise ValueError(f"objective.rollout is {rollout}; use 1 or more steps")

    def loss_fn(params, encoder, batch):
        truth = jax.lax.stop_gradient(features_of(networks, encoder, batch))
        actions, states = batch["action"], batch["state"]
        T = actions.shape[1]
        assert rollout <= T and states.shape[1] == T + 1, (rollout, states.shape)
        weights = params["predictor"]
        guess = networks.predict(weights, truth[:, :-1], actions, states[:, :-1])
        forced = jnp.abs(guess - truth[:, 1:]).mean()
        metrics, total = {"loss_forced": forced}, forced
        if rollout > 1:
            seen = jnp.concatenate([truth[:, :1], guess[:, :1]], 1)
            later = networks.roll(
                weights, seen, actions[:, :rollout], states[:, :rollout]
            )
            rolled = jnp.concatenate([guess[:, :1], later], 1)
            error = jnp.abs(rolled - truth[:, 1 : rollout + 1]).mean()
            metrics["loss_rollout"] = error
            total = total + error
        still = jnp.abs(truth[:, 1:] - truth[:, :-1]).mean()
        return total, (metrics | {"loss": total, "loss_copy": still}, {})

    return loss_fn


def make(config: Section) -> Method:
    """The Method of a config from configs/ac.py.

    Raises ValueError for values that do not fit each other.
    """
    batch, clip, optimizer = config["batch"], config["clip"], config["optimizer"]
    networks, widths = make_networks(config)
    rollout = config["objective"]["rollout"]
    if rollout > clip["frames"] - 1:
        raise ValueError(
            f"objective.rollout is {rollout}, but a clip has {clip['frames']} frames; use 1 "
            f"to {clip['frames'] - 1}"
        )
    init = make_init(networks, widths)
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=config["steps"])
        for name in ("lr", "decay")
    }
    step = optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=make_loss(networks, rollout=rollout),
        frozen=lambda state: state.encoder,
        dtype=networks.predictor.dtype,
        accumulate=config["accumulate"],
        **schedules,
    )
    read = robot_clips.make_read(config["data"], seed=config["seed"], skip=clip["skip"])

    plan = config["plan"].into(Planning)
    plan.check(clip["frames"] - 1)
    acting = make_acting(
        networks,
        config,
        plan,
        widths,
        title="V-JEPA 2-AC",
        params_of=weights_of,
        moments=lambda state, width: (np.zeros(width), np.ones(width)),
        reach=plan.window,
    )

    def records():
        return read("train", frames=clip["frames"])[0]

    def source(split, shard, folder=None):
        check_encoder(config)
        return robot_clips.make_clip_source(
            split,
            shard,
            batch=batch,
            widths=widths,
            read=functools.partial(read, frames=clip["frames"]),
        )

    return Method(
        init=init,
        step=step,
        source=source,
        evals=feature_evals.make_evals(
            networks, read=read, params_of=weights_of, config=config
        )
        | {"plan": make_plan_evaluation(acting, plan)},
        exports={
            "planner": make_planner_export(acting, plan, config=config, records=records)
        },
        batch=batch,
        unit="clips",
        frozen_fields=("step", "params", "encoder"),
        parts=PARTS,
        found_in=FOUND_IN,
        readers=readers.make_readers(networks.encoder, networks.predictor),
        better=feature_evals.BETTER,
        costs=make_costs(networks, config),
        tools=Tools(benches={"plan": bench_plans(acting, plan, init)}),
    )


def make_costs(networks: Networks, config: Section) -> Costs:
    """What a step costs: teacher forcing, rollout and the frozen encoder."""
    predictor = networks.predictor
    frames, rollout = config["clip"]["frames"], config["objective"]["rollout"]
    cells = networks.grid[0] * networks.grid[1]
    seen = encoder_flops(networks.encoder, networks.grid)
    per_step = predictor.views * cells + 2
    lengths = [frames - 1, *range(2, rollout + 1)]
    guesses = sum(
        flops.forward(
            tokens=n * per_step,
            segments=(n * per_step,),
            width=predictor.width,
            depth=predictor.depth,
            hidden=predictor.hidden,
            inputs=predictor.out,
            outputs=predictor.out,
        )
        for n in lengths
    )
    again = guesses if predictor.remat in ("block", "attention") else 0
    forward_passes = 1 + (predictor.remat != "none")
    return Costs(
        flops=float(config["batch"] * (3 * guesses + frames * predictor.views * seen)),
        recomputed=float(config["batch"] * again),
        gathers={
            "params": config["accumulate"] * len(lengths) * forward_passes,
            "encoder": config["accumulate"],
        },
        dtype=predictor.dtype,
        memory_hint=flops.memory_hint(predictor.remat),
    )


def weights_of(state: Any) -> dict:
    """What inference reads of a state."""
    return {"encoder": state.encoder, "predictor": state.params["predictor"]}
