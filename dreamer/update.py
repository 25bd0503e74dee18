"""DreamerV3's state, loss and step, on trajectories or as an agent (arXiv 2301.04104)."""

import jax
import jax.numpy as jnp
from flax import struct

from core import optim
from core.method import Costs, Method, Tools
from core.nn.layers import named
from core.update import guarded_update
from dreamer import behavior as behave
from dreamer import flops, world_model
from dreamer.export import make_exports
from dreamer.pictures import sequences
from dreamer.rssm import Latent

SLOW_RATE = 0.02


@struct.dataclass
class State:
    step: jax.Array
    params: dict  # by network
    slow: dict  # moving average of the critic
    range: behave.Range  # of returns
    opt: optim.Laprop
    seen: Latent  # the last batch's states: [B, T, D], class numbers uint8 [B, T, S]
    bad_steps: jax.Array  # updates in a row that were not applied


def make_init(model, behavior, *, batch, length):
    """key -> State with boxed arrays; `behavior` is None for a world model alone."""

    def init(key):
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
    return named(lambda: x, names)()


def pack(states: Latent) -> Latent:
    """States [T, B, ...] -> [B, T, ...] with stoch as class numbers."""
    ids = jnp.argmax(states.stoch, -1).astype(jnp.uint8)
    return jax.tree.map(lambda x: x.swapaxes(0, 1), Latent(states.deter, ids))


def unpack(model, deter, ids) -> Latent:
    """The state of one step as networks take it: [B, D], ids [B, S]."""
    hot = jax.nn.one_hot(ids, model.rssm.classes, dtype=model.rssm.dtype)
    return Latent(deter.astype(model.rssm.dtype), hot)


def start_of(model, batch, seen: Latent) -> Latent:
    """Before the first step: the last of the batch before where it goes on, else as told."""
    go_on = batch["goes_on"][:, None]
    deter = jnp.where(go_on, seen.deter[:, -1], batch["deter"].astype(seen.deter.dtype))
    return unpack(model, deter, jnp.where(go_on, seen.stoch[:, -1], batch["stoch"]))


def prepare(model, batch, seen: Latent, key):
    """The batch with what is drawn for each of its rows: where sequences begin, noise of
    their states, and keys of the dreams.
    """
    for_states, for_dreams = jax.random.split(key)
    gumbel = world_model.noise_of(model, batch, for_states).swapaxes(0, 1)
    return {
        **batch,
        "start": start_of(model, batch, seen),
        "gumbel": gumbel,
        "keys": jax.random.split(for_dreams, len(gumbel)),
    }


def make_loss(model, behavior):
    """(params, (slow, range), prepared batch) -> (loss, ((metrics, range), states)).

    A mean over sequences, but for the range: it is that of the returns of all.
    """

    def loss_fn(params, frozen, batch):
        slow, seen_range = frozen
        gumbel = batch["gumbel"].swapaxes(0, 1)
        found, states, metrics = world_model.losses(
            model, params, batch["start"], batch, gumbel
        )
        whole, means = world_model.total(found)
        metrics |= means
        if behavior is not None:
            found, seen_range, more = behave.losses(
                model, behavior, params, slow, seen_range, states, batch, batch["keys"]
            )
            means = {name: loss.mean() for name, loss in found.items()}
            whole += means["actor"] + means["critic"]
            whole += behave.REPLAY_SCALE * means["replay"]
            metrics |= more | {f"loss_{name}": mean for name, mean in means.items()}
        return whole, ((metrics | {"loss": whole}, seen_range), pack(states))

    return loss_fn


def make_step(init, model, behavior, *, lr, agc, betas, eps, accumulate, seed):
    """(state, batch) -> (state, metrics); an update that is not finite is not applied.

    lr is a schedule of the updates done before, so that a warmup from 0 begins with 0.
    A batch is taken in `accumulate` parts.
    """
    loss_fn = make_loss(model, behavior)

    def step(state, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        like = jax.eval_shape(init, key)

        def optimize(grads, found, states):
            metrics, seen_range = found
            rate = lr(state.step)
            params, opt = optim.laprop(
                grads, state.opt, state.params, lr=rate, betas=betas, eps=eps, agc=agc
            )
            slow = optim.ema(state.slow, params.get("critic", {}), 1 - SLOW_RATE)
            changes = {"params": params, "slow": slow, "range": seen_range}
            return changes | {"opt": opt, "seen": states}, metrics | {"lr": rate}

        return guarded_update(
            state,
            prepare(model, batch, state.seen, key),
            loss_fn=loss_fn,
            frozen=(state.slow, state.range),
            like=(like.params, (like.slow, like.range)),
            optimize=optimize,
            dtype=model.rssm.dtype,
            accumulate=accumulate,
            auto=("tensor",),
        )

    return step


def make_networks(spaces, actions, *, dtype, behavior, model, imagination):
    """World model and behaviour, from their config sections; None for no behaviour."""
    dtype = jnp.dtype(dtype)
    world = world_model.make_world_model(spaces, actions, **model, dtype=dtype)
    if behavior not in ("actor", "cem", "none"):
        raise ValueError(f"behavior is {behavior!r}; use 'actor', 'cem' or 'none'")
    if behavior != "actor":
        return world, None
    units = {"units": model["units"], "dtype": dtype}
    return world, behave.make_behavior(world.actions, **imagination, **units)


def make_method(
    config, resolved, spaces, actions, *, source, evals, benches=None, acts=False
) -> Method:
    """A Method from what offline pretraining and agents share of a config.

    source, benches: functions of the networks. evals: name -> function of the networks
    that gives an evaluation. resolved: the config as it was, for model cards.
    """
    names = ("dtype", "behavior", "model", "imagination")
    networks = make_networks(spaces, actions, **{name: config[name] for name in names})
    batch, length = config["batch"], config["length"]
    last = config["imagination"]["last"]
    if last and not 2 <= last <= length:
        raise ValueError(
            f"imagination.last is {last}; use 0 for all steps, or 2 to {length}, the length"
        )
    parts = config["accumulate"]
    if parts > 1 and networks[1] is not None:
        raise ValueError(
            f"accumulate is {parts}, but an actor's advantages are scaled by the range of "
            "all returns of an update; use 1, or behavior 'none'"
        )
    optimizer = dict(config["optimizer"])
    optimizer["lr"] = optim.make_schedule(**optimizer["lr"], steps=config["steps"])
    init = make_init(*networks, batch=batch, length=length)
    return Method(
        init=init,
        step=make_step(
            init, *networks, **optimizer, accumulate=parts, seed=config["seed"]
        ),
        source=source(*networks),
        evals={name: one(*networks) for name, one in evals.items()},
        exports=make_exports(*networks, config=resolved),
        batch=batch,
        unit="sequences",
        frozen_fields=("step", "params"),
        acts=acts,
        costs=Costs(
            flops=flops.update(*networks, batch=batch, length=length),
            gathers={"params": parts, "slow": parts},
            dtype=networks[0].rssm.dtype,
        ),
        tools=Tools(benches=benches(*networks) if benches else {}, draw=sequences),
    )
