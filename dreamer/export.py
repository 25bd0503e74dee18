"""Exports: a frozen world model and its actor as functions of one step."""

import jax
import jax.numpy as jnp
import numpy as np

from core.agents import action_distributions
from core.export import artifacts
from core.nn import distributions
from dreamer import world_model
from dreamer.nets import decoded_values
from dreamer.rssm import Latent

TITLE = "A recurrent world model, pretrained with Reverie"
WHAT = """\
Infers a recurrent state (deter) and categorical latents (stoch) from observations, and
predicts what follows (arXiv 2301.04104). Each program is one step, for any batch size."""
NETWORK = """\
All networks of the world model as trained, and the actor if there is one."""
INPUTS = """\
An episode begins with zeros in `deter` and `stoch`.

- `encode`: observations {observations} -> `embed`.
- `observe`: the state before, `action` {action} that led here, `embed`, and `noise`
  -> the state now. `is_first` resets the state before.
- `imagine`: the state, `action` and `noise` -> the next state, without an observation.
- `decode`: the state -> the expected observations (images in 0..1), `reward`, and
  `continue`, the probability that the episode goes on, times the discount.
- `act`, if there is an actor: the state -> its most likely action.

`noise` is standard Gumbel noise of the shape of `stoch`, to sample a state; zeros give the
most likely one."""


def make_programs(model, behavior) -> dict:
    """Name -> (function of (params, inputs), specs of the inputs), all in float32.

    Inputs and outputs are dictionaries of arrays [B, ...], with specs for B = 1.
    `behavior` is None for a world model alone.
    """
    r = model.rssm

    def spec(*shape, dtype="float32"):
        return jax.ShapeDtypeStruct((1, *shape), np.dtype(dtype))

    state = {"deter": spec(r.deter), "stoch": spec(r.stoch, r.classes)}
    noise, action = {"noise": spec(r.stoch, r.classes)}, {"action": spec(r.action)}
    seen = {k: spec(*s.shape, dtype=s.dtype) for k, s in model.spaces}

    def latent(inputs):
        return Latent(inputs["deter"], inputs["stoch"])

    def outputs(latent):
        return {"deter": latent.deter, "stoch": latent.stoch}

    def encode(params, inputs):
        apply = model.encoder.apply
        return {"embed": apply({"params": params["encoder"]}, inputs)}

    def observe(params, inputs):
        one = (inputs[k][None] for k in ("action", "embed", "is_first", "noise"))
        states, _ = r.apply(
            {"params": params["rssm"]}, latent(inputs), *one, method="observe"
        )
        return outputs(jax.tree.map(lambda x: x[0], states))

    def imagine(params, inputs):
        apply = {"params": params["rssm"]}
        parts = latent(inputs), inputs["action"], inputs["noise"]
        return outputs(r.apply(apply, *parts, method="one_step"))

    def decode(params, inputs):
        states = jax.tree.map(lambda x: x[None], latent(inputs))
        out = world_model.decode(model, params, states)
        found = {k: decoded_values(out[k][0], space) for k, space in model.spaces}
        x = latent(inputs).features()
        reward = model.reward.apply({"params": params["reward"]}, x)
        cont = model.cont.apply({"params": params["continue"]}, x)
        heads = {
            "reward": distributions.two_hot_mean(reward),
            "continue": jax.nn.sigmoid(cont),
        }
        return found | heads

    def act(params, inputs):
        x = latent(inputs).features()
        out = behavior.actor.apply({"params": params["actor"]}, x)
        return action_distributions.as_actions(
            model.actions, action_distributions.mode(model.actions, out)
        )

    first = {"is_first": spec(dtype="bool")}
    embed = {"embed": spec(r.embed)}
    programs = {
        "encode": (encode, seen),
        "observe": (observe, state | action | embed | first | noise),
        "imagine": (imagine, state | action | noise),
        "decode": (decode, state),
    }
    return programs | ({"act": (act, state)} if behavior is not None else {})


def make_exports(model, behavior, *, config) -> dict:
    """Format -> core.method.Export, "world_model" (StableHLO) and "safetensors".

    config: of the run, for the model card.
    """
    frozen = in_float32(model)
    heads = None
    if behavior is not None:
        heads = behavior._replace(actor=behavior.actor.clone(dtype=jnp.float32))
    programs = make_programs(frozen, heads)
    seen = ", ".join(f"`{k}` {s.dtype} {list(s.shape)}" for k, s in model.spaces)
    words = {
        "title": TITLE,
        "what": WHAT,
        "network": NETWORK,
        "inputs": INPUTS.format(observations=seen, action=[model.rssm.action]),
        "config": config,
    }

    def stablehlo(state, folder, origin):
        return artifacts.export_stablehlo(
            folder, programs, state.params, origin=origin, **words
        )

    def safetensors(state, folder, origin):
        return artifacts.export_safetensors(
            folder, state.params, origin=origin, **words
        )

    return {"world_model": stablehlo, "safetensors": safetensors}


def in_float32(model):
    """The same world model, computing in float32."""
    names = ("encoder", "rssm", "decoder", "reward", "cont")
    clones = {n: getattr(model, n).clone(dtype=jnp.float32) for n in names}
    return model._replace(**clones)
