"""PLDM as a Method: a recurrent world model in the latents of an encoder learnt with it.

arXiv 2502.14819, end to end from pixels of trajectories without rewards. The prediction runs
open-loop over many steps. Terms of VICReg, slow change and inverse dynamics keep the latents
from collapsing. configs/pldm.py has the smaller variant of EB-JEPA, too.
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
from jepa.losses import latent_paths
from jepa.worlds.block_clips import make_clip_source, make_read
from jepa.worlds.clip_statistics import ClipStatistics, normalized
from jepa.worlds.latent_evals import BETTER, make_evals
from jepa.worlds.latent_plan import make_acting
from jepa.worlds.planning import (
    Planning,
    bench_plans,
    make_plan_evaluation,
    make_planner_export,
)
from jepa.worlds.pldm_networks import Networks, make_networks, make_world
from jepa.worlds.predictor_step import make_step


@struct.dataclass
class State:
    """Weights, statistics, moments and counters of one run."""

    step: jax.Array
    params: dict  # "encoder", "head", "norm", "predictor", "inverse"
    actions: dict  # "mean" and "std" of environment actions, [A]
    opt: optax.ScaleByAdamState
    bad_steps: jax.Array  # consecutive updates that were not finite and not applied


def make_init(networks: Networks, statistics: ClipStatistics):
    """key -> State with boxed arrays; statistics of the actions come with it."""

    def init(key):
        params = networks.init(key)
        actions = {k: jnp.asarray(x) for k, x in statistics.numbers["action"].items()}
        zero = jnp.zeros((), jnp.int32)
        return State(zero, params, actions, optim.adam_moments(params), zero)

    return init


def make_loss(
    networks: Networks, *, rollout, samples, prediction, variance, covariance, temporal,
    inverse, variance_time, covariance_time,
):  # fmt: skip
    """(params, actions, batch) -> (loss, (metrics, {})): the weighted sum of `terms_of`.

    rollout: steps that are predicted from the first frame of a clip. samples: rows over which
    variance and covariance are computed, a name in latent_paths.SAMPLES. The rest are weights.
    Raises ValueError for a weight below 0 and a name that is not there.
    """
    weights = {
        "prediction": prediction,
        "variance": variance,
        "covariance": covariance,
        "temporal": temporal,
        "inverse": inverse,
        "variance_time": variance_time,
        "covariance_time": covariance_time,
    }
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"objective.{name} is {weight:g}; use 0 or more")
    if samples not in latent_paths.SAMPLES:
        raise ValueError(
            f"objective.samples is {samples!r}; use {' or '.join(latent_paths.SAMPLES)}"
        )

    def loss_fn(params, actions, batch):
        blocks = normalized(batch["action"], actions, networks.skip)
        z = networks.encode(params, batch["image"])
        guess = networks.roll(params, z[:, 0], blocks[:, :rollout])
        read = networks.actions_between(params, z)
        terms = terms_of(z, guess, read, blocks, samples=samples)
        assert terms.keys() == weights.keys(), (terms.keys(), weights.keys())
        # A term without weight is not computed: the compiler drops what nobody reads.
        terms = {name: x for name, x in terms.items() if weights[name]}
        total = sum(weights[name] * x for name, x in terms.items())
        return total, (terms | {"loss": total}, {})

    return loss_fn


def terms_of(z, guess, read, blocks, *, samples: str) -> dict:
    """The terms of the loss by name, [] each (arXiv 2502.14819, section 3).

    Args:
      z: latents of the frames, [B, T + 1, D]. guess: predicted from the first one, [B, H, D].
      read, blocks: actions read from latents and true ones, [B, T, skip A].
      samples: name in latent_paths.SAMPLES.
    """
    H = guess.shape[1]
    variance, covariance = latent_paths.SAMPLES[samples](all_gather_rows(z))
    variance_time, covariance_time = latent_paths.along_time(z)
    return {
        "prediction": jnp.square(guess - z[:, 1 : H + 1]).mean(),
        "variance": variance,
        "covariance": covariance,
        "temporal": latent_paths.temporal(z),
        "inverse": jnp.square(read - blocks).mean(),
        "variance_time": variance_time,
        "covariance_time": covariance_time,
    }


def make(config: Section) -> Method:
    """The Method of a config from configs/pldm.py.

    Raises ValueError for values that do not fit each other or the trajectories.
    """
    batch, clip, optimizer = config["batch"], config["clip"], config["optimizer"]
    frames, rollout = clip["frames"], config["objective"]["rollout"]
    if config["accumulate"] != 1:
        raise ValueError(
            f"accumulate is {config['accumulate']}, but the terms against collapse look at "
            "all clips of a batch together; use 1"
        )
    if not 1 <= rollout < frames:
        raise ValueError(
            f"objective.rollout is {rollout}, but a clip has {frames} frames; use 1 to "
            f"{frames - 1}"
        )
    read = make_read(config["data"], seed=config["seed"], skip=clip["skip"])
    records, _ = read("train", frames=frames)
    statistics = ClipStatistics(records, {"action": clip["skip"]})
    networks = make_networks(config, width=statistics.width("action"))
    world, dtype = make_world(networks), networks.predictor.dtype
    plan = config["plan"].into(Planning)
    plan.check(world.history)
    acting = make_acting("PLDM", world, plan, data=config["data"], width=networks.width)
    init = make_init(networks, statistics)
    schedules = {
        name: optim.schedule_from(optimizer[name], steps=config["steps"])
        for name in ("lr", "decay")
    }
    step = optimizer.without(*schedules).into(
        make_step,
        init=init,
        loss_fn=config["objective"].into(make_loss, networks=networks),
        frozen=lambda state: state.actions,
        dtype=dtype,
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
        frozen_fields=("step", "params", "actions"),
        parts={name: (f"params/{name}",) for name in networks._fields[:5]}
        | {"actions": ("actions",)},
        better=BETTER,
        costs=Costs(dtype=dtype),
        tools=Tools(benches={"plan": bench_plans(acting, plan, init)}),
    )
