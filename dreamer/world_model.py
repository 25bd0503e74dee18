"""The world model of DreamerV3: encoder, RSSM, decoder, reward and continue heads, losses.

arXiv 2301.04104, "world model learning". Batches are [B, T, ...]; states have time first.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.agents.spaces import Spaces, sorted_spaces, total_width
from core.nn import distributions
from core.parallel.collectives import split_over_sequence
from core.parallel.layouts import unbox
from dreamer import nets
from dreamer.layers import Head
from dreamer.rssm import Latent, Rssm, noise

GAMMA = 1 - 1 / 333  # discount of a step
SCALES = {"dyn": 1.0, "rep": 0.1, "reward": 1.0, "continue": 1.0}  # reconstructions: 1
FREE_BITS = 1.0  # KL of a step, in nats, below which there is no gradient


class WorldModel(NamedTuple):
    """The networks, without their weights. `cont` predicts whether the episode continues."""

    encoder: nets.Encoder
    rssm: Rssm
    decoder: nets.Decoder
    reward: Head
    cont: Head
    actions: Spaces

    @property
    def spaces(self):
        return self.encoder.spaces


def make_world_model(
    spaces, actions, *, deter, hidden, classes, depth, units, stoch=32, blocks=8,
    form="pool", dtype=jnp.float32,
) -> WorldModel:  # fmt: skip
    """Networks for observations and actions {name: Space}, from a row of the size table.

    Raises ValueError for images of different or unsuitable sizes.
    """
    spaces, actions = sorted_spaces(spaces), sorted_spaces(actions)
    check_images(spaces, form)
    encoder = nets.Encoder(spaces, depth, units, form, dtype)
    example = {k: jnp.zeros((1, *s.shape), s.dtype) for k, s in spaces}
    embed = jax.eval_shape(encoder.init, jax.random.key(0), example)
    embed = jax.eval_shape(lambda p: encoder.apply(p, example), unbox(embed)).shape[-1]
    rssm = Rssm(
        embed, total_width(actions), deter, hidden, stoch, classes, blocks,
        dtype=dtype,
    )  # fmt: skip
    decoder = nets.Decoder(spaces, depth, units, blocks, form, dtype)
    reward = Head(1, units, (distributions.BINS,), scale=0.0, dtype=dtype)
    return WorldModel(
        encoder, rssm, decoder, reward, Head(1, units, dtype=dtype), actions
    )


def check_images(spaces, form):
    """Raise ValueError unless images have one size that can be halved to 3 to 16 pixels."""
    sizes = {k: s.shape[:2] for k, s in spaces if s.is_image}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"image observations differ in size: {sizes}; use one size")
    for name, (rows, cols) in sizes.items():
        if rows != cols or rows % 16 or not 3 <= rows // 16 <= 16:
            raise ValueError(
                f"image observation {name!r} is {rows} x {cols}; use a square of a "
                "multiple of 16 from 48 to 256"
            )


def init(model: WorldModel, key) -> dict:
    """Boxed parameters by network."""
    keys = jax.random.split(key, 5)
    example = {k: jnp.zeros((1, *s.shape), s.dtype) for k, s in model.spaces}
    latent = model.rssm.first(1)
    x = latent.features()
    stoch = latent.stoch.reshape(1, -1)
    one = (latent, jnp.zeros((1, 1, model.rssm.action)))
    one += (jnp.zeros((1, 1, model.rssm.embed)), jnp.zeros((1, 1), bool))
    one += (jnp.zeros((1, *latent.stoch.shape)),)
    return {
        "encoder": model.encoder.init(keys[0], example)["params"],
        "rssm": model.rssm.init(keys[1], *one, method="observe")["params"],
        "decoder": model.decoder.init(keys[2], latent.deter, stoch)["params"],
        "reward": model.reward.init(keys[3], x)["params"],
        "continue": model.cont.init(keys[4], x)["params"],
    }


def encode(model, params, obs):
    """Observations [B, T, ...] by name -> embeddings [T, B, E]."""

    def frames(obs):
        lead = obs[model.spaces[0][0]].shape[:2]
        flat = {k: obs[k].reshape(-1, *s.shape) for k, s in model.spaces}
        embeds = model.encoder.apply({"params": params["encoder"]}, flat)
        return embeds.reshape(*lead, -1).swapaxes(0, 1)

    return split_over_sequence(frames, {k: obs[k] for k, _ in model.spaces}, axis=1)


def noise_of(model, batch, key):
    """Gumbel noise of the states of a batch [B, T, ...]: [T, B, S, C]."""
    B, T = batch["is_first"].shape
    return noise(key, (T, B, model.rssm.stoch, model.rssm.classes))


def observe(model, params, latent: Latent, batch, gumbel):
    """Posterior states and their log-probabilities, both [T, B, ...], of a batch.

    latent: the states before the first step. batch: observations, "action" (the vector
    before each observation) and "is_first", [B, T, ...]. gumbel: of `noise_of`.
    """
    embeds = encode(model, params, batch)
    return model.rssm.apply(
        {"params": params["rssm"]},
        latent,
        batch["action"].swapaxes(0, 1),
        embeds,
        batch["is_first"].swapaxes(0, 1),
        gumbel,
        method="observe",
    )


def decode(model, params, latent: Latent):
    """Predicted observations of states [T, B, ...], by name [T, B, ...]."""
    lead = latent.deter.shape[:-1]
    deter, stoch = latent.deter, latent.stoch
    out = model.decoder.apply(
        {"params": params["decoder"]},
        deter.reshape(-1, deter.shape[-1]),
        stoch.reshape(-1, stoch.shape[-2] * stoch.shape[-1]),
    )
    return {k: x.reshape(*lead, *x.shape[1:]) for k, x in out.items()}


def reconstruct(model, params, states_and_true):
    """Losses {name: [T, B]} of decoding states to the true observations [T, B, ...]."""
    states, true = states_and_true
    predicted, found = decode(model, params, states), {}
    for name, space in model.spaces:
        lead = true[name].shape[:2]
        flat = predicted[name].reshape(-1, *predicted[name].shape[2:])
        loss = nets.reconstruction(flat, true[name].reshape(-1, *space.shape), space)
        found[name] = loss.reshape(lead)
    return found


def losses(model, params, latent: Latent, batch, gumbel):
    """Losses of every step {name: [T, B]}, the states [T, B, ...], and metrics.

    Arguments as in `observe`; the batch also has "reward" and "is_terminal".
    """
    states, post = observe(model, params, latent, batch, gumbel)
    prior = model.rssm.apply({"params": params["rssm"]}, states.deter, method="prior")
    fixed = jax.lax.stop_gradient
    dyn, rep = (
        distributions.kl(fixed(post), prior),
        distributions.kl(post, fixed(prior)),
    )
    found = {"dyn": jnp.maximum(dyn, FREE_BITS), "rep": jnp.maximum(rep, FREE_BITS)}
    true = {k: batch[k].swapaxes(0, 1) for k, _ in model.spaces}
    found |= split_over_sequence(
        functools.partial(reconstruct, model, params), (states, true)
    )
    x = states.features()
    reward = model.reward.apply({"params": params["reward"]}, x)
    found["reward"] = distributions.two_hot_loss(reward, batch["reward"].swapaxes(0, 1))
    logit = model.cont.apply({"params": params["continue"]}, x)
    # The label includes the discount, so that the head predicts it.
    goes_on = (1 - batch["is_terminal"].swapaxes(0, 1).astype(jnp.float32)) * GAMMA
    found["continue"] = distributions.binary_loss(logit, goes_on)
    for name, loss in found.items():
        assert loss.shape == dyn.shape, (name, loss.shape, dyn.shape)
    metrics = {
        "entropy_prior": distributions.entropy(prior).sum(-1).mean(),
        "entropy_posterior": distributions.entropy(post).sum(-1).mean(),
        "kl": dyn.mean(),
    }
    return found, states, metrics


def total(found: dict):
    """The weighted sum of mean losses, and the means by name."""
    means = {name: loss.mean() for name, loss in found.items()}
    whole = sum(SCALES.get(name, 1.0) * mean for name, mean in means.items())
    return whole, {f"loss_{name}": mean for name, mean in means.items()}
