"""DreamerV3's state, loss, update and Method, offline or as an agent (arXiv 2301.04104)."""

import importlib.metadata

import jax
import jax.numpy as jnp
from flax import struct

from core import optim
from core.agents import action_distributions
from core.method import Costs, Eval, MakeSource, Method, Tools
from core.nn.layers import named
from core.planning.planners import DISCRETE, PLANNERS
from core.section import Section
from core.update import guarded_update
from dreamer import behavior as behave
from dreamer import flops, world_model
from dreamer.export import make_exports
from dreamer.pictures import sequences
from dreamer.rssm import Latent

SLOW_RATE = 0.02  # of the moving average of the critic
# Emitters for fusions take 750 MB more to compile an update at 1m, which stays with the
# process, and make it no faster. The default order of operations, for concurrency, keeps
# 450 MB more of an update on images. Other versions of jaxlib may not know the options.
CPU_OPTIONS = (
    {
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    }
    if importlib.metadata.version("jaxlib").startswith("0.10.")
    else {}
)
# Arrays of a batch that are no observations, besides those of core/data/episodes/steps.py.
OWN = ("deter", "stoch", "goes_on", "start", "gumbel", "keys")


class State(struct.PyTreeNode):
    """A core.method.State. B, T: batch and length of the config."""

    step: jax.Array
    params: dict  # by network
    slow: dict  # moving average of the critic's; empty without a behavior
    range: behave.Range  # of returns
    opt: optim.Laprop
    seen: Latent  # the last batch's: deter [B, T, D], class numbers uint8 [B, T, S]
    bad_steps: jax.Array


def make_init(model, behavior, *, batch: int, length: int):
    """key -> State with boxed arrays; `behavior` is None for a world model alone."""

    def init(key) -> State:
        keys = jax.random.split(key)
        params = world_model.init(model, keys[0])
        if behavior is not None:
            width = model.rssm.deter + model.rssm.stoch * model.rssm.classes
            params |= behave.init(behavior, width, keys[1])
        zero = jnp.zeros((), jnp.int32)
        seen = Latent(
            jnp.zeros((batch, length, model.rssm.deter), model.rssm.dtype),
            jnp.zeros((batch, length, model.rssm.stoch), jnp.uint8),
        )
        seen = Latent(*(boxed(x, "batch", None, None) for x in seen))
        return State(
            step=zero,
            params=params,
            slow=params.get("critic", {}),
            range=behave.no_range(),
            opt=optim.laprop_moments(params),
            seen=seen,
            bad_steps=zero,
        )

    return init


def boxed(x, *names):
    """An array with logical axis names."""
    return named(lambda: x, names)()


def pack(states: Latent) -> Latent:
    """States [T, B, ...] -> [B, T, ...] with stoch as class numbers."""
    ids = jnp.argmax(states.stoch, -1).astype(jnp.uint8)
    return jax.tree.map(lambda x: x.swapaxes(0, 1), Latent(states.deter, ids))


def unpack(model, deter, ids) -> Latent:
    """Packed states of one step, [B, D] and [B, S], as networks take them."""
    hot = jax.nn.one_hot(ids, model.rssm.classes, dtype=model.rssm.dtype)
    return Latent(deter.astype(model.rssm.dtype), hot)


def first_latent(model, batch, seen: Latent) -> Latent:
    """The states before the first step of a batch.

    Rows with `goes_on` continue the last batch, whose states are `seen`; others begin from
    the batch's own "deter" and "stoch".
    """
    go_on = batch["goes_on"][:, None]
    deter = jnp.where(go_on, seen.deter[:, -1], batch["deter"].astype(seen.deter.dtype))
    return unpack(model, deter, jnp.where(go_on, seen.stoch[:, -1], batch["stoch"]))


def add_random(model, batch, seen: Latent, key):
    """The batch with its first states, noise of its states and keys of its imagination.

    Everything has the batch in front, so that devices and parts can split it.
    """
    for_states, for_dreams = jax.random.split(key)
    gumbel = world_model.noise_of(model, batch, for_states).swapaxes(0, 1)
    return {
        **batch,
        "start": first_latent(model, batch, seen),
        "gumbel": gumbel,
        "keys": jax.random.split(for_dreams, len(gumbel)),
    }


def make_loss(model, behavior):
    """(params, (slow, range), batch of `add_random`) -> (loss, ((metrics, range), states)).

    A mean over sequences, except for the range: it is that of the returns of all.
    """

    def loss_fn(params, frozen, batch):
        slow, seen_range = frozen
        gumbel = batch["gumbel"].swapaxes(0, 1)
        found, states, metrics = world_model.losses(
            model, params, batch["start"], batch, gumbel
        )
        total, means = world_model.total(found)
        metrics |= means
        if behavior is not None:
            found, seen_range, more = behave.losses(
                model, behavior, params, slow, seen_range, states, batch, batch["keys"]
            )
            means = {name: loss.mean() for name, loss in found.items()}
            total += means["actor"] + means["critic"]
            total += behave.REPLAY_SCALE * means["replay"]
            metrics |= more | {f"loss_{name}": mean for name, mean in means.items()}
        return total, ((metrics | {"loss": total}, seen_range), pack(states))

    return loss_fn


def make_step(init, model, behavior, *, lr, agc, betas, eps, accumulate, seed):
    """(state, batch) -> (state, metrics); an update that is not finite is not applied.

    lr: schedule of the updates done before, so that a warmup from 0 begins with 0.
    accumulate: parts that a batch is taken in, one after another.
    """
    loss_fn = make_loss(model, behavior)
    # The published actor has a tensor of its own for each part of its output.
    ends = action_distributions.tensor_ends(model.actions)
    cuts = {("actor", "out", name): ends for name in ("kernel", "bias")}

    def step(state: State, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        like = jax.eval_shape(init, key)

        def optimize(grads, found, states):
            metrics, seen_range = found
            rate = lr(state.step)
            numbers = {"betas": betas, "eps": eps, "agc": agc, "cuts": cuts}
            params, opt = optim.laprop(
                grads, state.opt, state.params, lr=rate, **numbers
            )
            slow = optim.ema(state.slow, params.get("critic", {}), 1 - SLOW_RATE)
            changes = {"params": params, "slow": slow, "range": seen_range}
            return changes | {"opt": opt, "seen": states}, metrics | {"lr": rate}

        return guarded_update(
            state,
            add_random(model, batch, state.seen, key),
            loss_fn=loss_fn,
            frozen=(state.slow, state.range),
            like=(like.params, (like.slow, like.range)),
            optimize=optimize,
            dtype=model.rssm.dtype,
            accumulate=accumulate,
            auto=("tensor",),
        )

    return step


def make_networks(config: Section, spaces: dict, actions: dict):
    """(world model, behavior) for spaces by name; behavior is None unless it is "actor".

    Raises ValueError for values of the config that do not fit each other, for images that
    the networks cannot halve, and for observations called as in OWN.
    """
    check_values(config)
    if taken := sorted(set(OWN) & set(spaces)):
        raise ValueError(
            f"an observation is called {taken[0]!r}, a name that the model needs itself; "
            "rename it, or leave it out with --config.env.leave_out"
        )
    dtype = jnp.dtype(config["dtype"])
    model = config["model"].into(
        world_model.make_world_model, spaces=spaces, actions=actions, dtype=dtype
    )
    if config["behavior"] != "actor":
        return model, None
    units = config["model"]["units"]
    heads = config["imagination"].into(
        behave.make_behavior, actions=model.actions, units=units, dtype=dtype
    )
    return model, heads


def check_values(config: Section) -> None:
    """Raise ValueError for an unknown behavior and for values that exclude each other."""
    behavior, parts = config["behavior"], config["accumulate"]
    last, length = config["imagination"]["last"], config["length"]
    known = ("actor", "none", *PLANNERS, *DISCRETE)
    if behavior not in known:
        raise ValueError(f"behavior is {behavior!r}; use one of {', '.join(known)}")
    if last and not 2 <= last <= length:
        raise ValueError(
            f"imagination.last is {last}; use 0 for all steps, or 2 to {length}, the length"
        )
    if parts > 1 and behavior == "actor":
        raise ValueError(
            f"accumulate is {parts}, but an actor's advantages are scaled by the range of "
            "all returns of an update; use 1, or behavior 'none'"
        )


def make_method(
    config: Section,
    model,
    behavior,
    *,
    source: MakeSource,
    evals: dict[str, Eval],
    benches: dict | None = None,
    acts: bool = False,
) -> Method:
    """The Method that offline pretraining and agents share, around their sources.

    config: the whole config. model, behavior: of `make_networks`.
    """
    batch, length, parts = config["batch"], config["length"], config["accumulate"]
    optimizer = config["optimizer"]
    init = make_init(model, behavior, batch=batch, length=length)
    step = optimizer.without("lr").into(
        make_step,
        init=init,
        model=model,
        behavior=behavior,
        lr=optim.schedule_from(optimizer["lr"], steps=config["steps"]),
        accumulate=parts,
        seed=config["seed"],
    )
    return Method(
        init=init,
        step=step,
        source=source,
        evals=evals,
        exports=make_exports(model, behavior, config=config.to_dict()),
        batch=batch,
        unit="sequences",
        frozen_fields=("step", "params"),
        acts=acts,
        costs=Costs(
            flops=flops.update(model, behavior, batch=batch, length=length),
            gathers={"params": parts, "slow": parts},
            dtype=model.rssm.dtype,
        ),
        tools=Tools(benches=benches or {}, draw=sequences),
        compile_options={"cpu": CPU_OPTIONS},
        better={"dream.dream/*": "lower", "dream.steps_dreamt_better": "higher"},
    )
