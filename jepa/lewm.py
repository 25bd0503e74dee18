"""LeWorldModel as a Method: a world model in the latents of an encoder learnt with it.

arXiv 2603.19312. One prediction loss and one term against collapse, end to end from pixels:
no moving average, no stopped gradient, no reward, no decoder.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core import optim
from core.method import Costs, Method, Tools
from core.parallel.collectives import all_gather_rows
from core.section import Section
from core.update import guarded_update
from jepa.losses.masked import vicreg
from jepa.losses.sigreg import sigreg
from jepa.nets.batch_norm import first_moments, running_moments
from jepa.worlds.block_clips import make_clip_source, make_read
from jepa.worlds.clip_statistics import ClipStatistics, normalized
from jepa.worlds.latent_evals import BETTER, make_evals
from jepa.worlds.latent_plan import make_acting
from jepa.worlds.lewm_networks import Networks, make_networks, make_world
from jepa.worlds.planning import (
    Planning,
    bench_plans,
    make_plan_evaluation,
    make_planner_export,
)

DROPOUT_STREAM = 1  # of keys, folded into that of the step


@struct.dataclass
class State:
    """Weights, statistics, moments and counters of one run."""

    step: jax.Array
    params: dict  # "encoder", "projector", "action", "predictor", "pred_proj"
    norms: dict  # running Moments of batch norm in "projector" and "pred_proj"
    actions: dict  # "mean" and "std" of environment actions, [A]
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # consecutive updates that were not finite and not applied


def make_init(networks: Networks, statistics: ClipStatistics):
    """key -> State with boxed arrays; statistics of the actions come with it."""

    def init(key):
        params = networks.init(key)
        norms = {
            name: first_moments(getattr(networks, name).hidden)
            for name in ("projector", "pred_proj")
        }
        actions = {k: jnp.asarray(x) for k, x in statistics.numbers["action"].items()}
        zero = jnp.zeros((), jnp.int32)
        opt = optim.adam_moments(params)
        return State(zero, params, norms, actions, opt, zero)

    return init


def make_loss(
    networks: Networks, *, sigreg_weight, slices, knots, variance=0.0, covariance=0.0
):
    """(params, (norms, actions), batch, key) -> (loss, ((metrics, norms), {})).

    Mean squared error of the next latents, whose gradient reaches both sides, and the terms
    against collapse, of the latents of each time step by themselves.

    Args:
      sigreg_weight, slices, knots: weight and numbers of `sigreg`.
      variance, covariance: weights of the terms of VICReg (arXiv 2105.04906).
    """

    def loss_fn(params, frozen, batch, key):
        norms, actions = frozen
        blocks = normalized(batch["action"], actions, networks.skip)
        z, seen = networks.encode(params, batch["image"])
        guess, given = networks.predict(
            params, z[:, :-1], blocks, keys=batch.get("keys")
        )
        error = jnp.square(guess - z[:, 1:]).mean()
        norms = {
            "projector": running_moments(norms["projector"], seen),
            "pred_proj": running_moments(norms["pred_proj"], given),
        }
        metrics, total = {"loss_prediction": error}, error
        by_step = z.swapaxes(0, 1)
        if sigreg_weight:
            metrics["sigreg"] = sigreg(by_step, key, slices=slices, knots=knots)
            total += sigreg_weight * metrics["sigreg"]
        if variance or covariance:
            terms = [vicreg(x) for x in all_gather_rows(by_step, 1)]
            spread, crossed = (jnp.stack(x).mean() for x in zip(*terms, strict=True))
            metrics |= {"variance": spread, "covariance": crossed}
            total += variance * spread + covariance * crossed
        return total, ((metrics | {"loss": total}, norms), {})

    return loss_fn


def make_step(init, loss_fn, *, dtype, lr, decay, betas, eps, clip_norm, seed, dropout):
    """(state, batch) -> (state, metrics): AdamW on all networks, then running statistics.

    Args:
      dtype: of kernels on their way between devices.
      lr, decay: schedules of the 1-based update count.
      clip_norm: limit of the gradients' norm; 0 never clips.
      dropout: whether the predictor needs keys.
    """

    def step(state, batch):
        s = state.step + 1
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        like = jax.eval_shape(init, key)
        if dropout:
            rows = jax.random.fold_in(key, DROPOUT_STREAM)
            batch = {**batch, "keys": jax.random.split(rows, len(batch["action"]))}

        def optimize(grads, found, rows):
            metrics, norms = found
            if clip_norm:
                grads = optim.clip(grads, clip_norm)
            rates = {"lr": lr(s), "decay": decay(s)}
            params, opt = optim.adamw(
                grads, state.opt, state.params, **rates, betas=betas, eps=eps
            )
            changes = {"params": params, "opt": opt, "norms": norms}
            return changes, metrics | {"lr": rates["lr"]}

        return guarded_update(
            state,
            batch,
            loss_fn=lambda *given: loss_fn(*given, key),
            frozen=(state.norms, state.actions),
            like=(like.params, (like.norms, like.actions)),
            optimize=optimize,
            dtype=dtype,
        )

    return step


def make(config: Section) -> Method:
    """The Method of a config from configs/lewm.py.

    Raises ValueError for values that do not fit each other or the trajectories.
    """
    batch, seed, clip = config["batch"], config["seed"], config["clip"]
    if config["accumulate"] != 1:
        raise ValueError(
            f"accumulate is {config['accumulate']}, but batch norm and the terms against "
            "collapse look at all clips of a batch together; use 1"
        )
    frames = clip["history"] + 1
    read = make_read(config["data"], seed=seed, skip=clip["skip"])
    records, _ = read("train", frames=frames)
    statistics = ClipStatistics(records, {"action": clip["skip"]})
    networks = make_networks(config, width=statistics.width("action"))
    plan = config["plan"].into(Planning)
    plan.check(clip["history"])
    world = make_world(networks, window=plan.window)
    acting = make_acting(
        "LeWorldModel", world, plan, data=config["data"], width=networks.width
    )
    init = make_init(networks, statistics)
    optimizer, objective = config["optimizer"], config["objective"]
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=config["steps"])
        for name in ("lr", "decay")
    }
    step = optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=objective.into(make_loss, networks=networks),
        dtype=networks.predictor.dtype,
        seed=seed,
        dropout=networks.predictor.dropout > 0,
        **schedules,
    )
    return Method(
        init=init,
        step=step,
        source=functools.partial(
            make_clip_source,
            batch=batch,
            width=networks.skip * networks.width,
            make_records=functools.partial(read, frames=frames),
        ),
        evals=make_evals(world, read=read, frames=frames, config=config)
        | {"plan": make_plan_evaluation(acting, plan)},
        exports={
            "planner": make_planner_export(
                acting, plan, config=config, records=lambda: records
            )
        },
        batch=batch,
        unit="clips",
        frozen_fields=("step", "params", "norms", "actions"),
        parts={name: (f"params/{name}",) for name in networks._fields[:5]}
        | {"norms": ("norms",), "actions": ("actions",)},
        better=BETTER,
        costs=Costs(dtype=networks.predictor.dtype),
        tools=Tools(benches={"plan": bench_plans(acting, plan, init)}),
    )
