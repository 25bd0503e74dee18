"""The recurrent state-space model: a deterministic memory and categorical latents.

arXiv 2301.04104, "world model learning". A state is deter [B, D] and stoch [B, S, C],
one-hot over C. Scans run one pure step; inputs that do not depend on the state are computed
for all steps before the scan.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from core.nn import row_keys
from core.nn.distributions import straight_through_sample, unimix
from core.nn.layers import named
from core.parallel.collectives import constrain
from dreamer.layers import BLOCKS, DETER, fan_in, norm_act, product
from dreamer.scan import scan


class Latent(NamedTuple):
    """The state of B worlds; sequences have time as the first axis."""

    deter: jax.Array  # [B, D]
    stoch: jax.Array  # [B, S, C]

    def features(self):
        """The input of heads: [B, D + S C]."""
        return jnp.concatenate([self.deter, flat(self.stoch)], -1)


def flat(stoch):
    """[..., S, C] -> [..., S C]."""
    return stoch.reshape(*stoch.shape[:-2], -1)


def noise(key, shape):
    """Gumbel noise to sample categoricals; keys are as in core/nn/row_keys.py."""
    return row_keys.sample(jax.random.gumbel, key, shape)


class Affine(nn.Module):
    """Parameters of a linear layer and the norm after it, returned instead of applied."""

    kernel: tuple[int, ...]
    names: tuple
    norm: bool = True

    @nn.compact
    def __call__(self):
        *groups, _, out = self.kernel
        wide, axis = (out, self.names[-1]) if not groups else (groups[0] * out, DETER)
        w = {"kernel": self.param("kernel", named(fan_in(), self.names), self.kernel)}
        w["bias"] = self.param("bias", named(nn.initializers.zeros, (axis,)), (wide,))
        if self.norm:
            ones = named(nn.initializers.ones, (axis,))
            w["scale"] = self.param("scale", ones, (wide,))
        return w


class Rssm(nn.Module):
    """Block GRU over deter, posterior and prior over stoch.

    embed, action: widths E and A. deter: D. hidden: width U of the layers. stoch, classes:
    S and C. blocks: of the GRU. unimix: share of the uniform distribution in categoricals.
    """

    embed: int
    action: int
    deter: int
    hidden: int
    stoch: int
    classes: int
    blocks: int = 8
    unimix: float = 0.01
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        D, U, Z, G = self.deter, self.hidden, self.stoch * self.classes, self.blocks
        self.layers = {
            "deter_in": Affine((D, U), (DETER, "embed")),
            "stoch_in": Affine((Z, U), ("embed", None)),
            "action_in": Affine((self.action, U), (None, None)),
            "hidden": Affine((G, D // G + 3 * U, D // G), (BLOCKS, "embed", None)),
            "gru": Affine((G, D // G, 3 * D // G), (BLOCKS, "embed", None), norm=False),
            "posterior": Affine((D + self.embed, U), ("embed", "mlp")),
            "posterior_out": Affine((U, Z), ("mlp", None), norm=False),
            "prior0": Affine((D, U), (DETER, "embed")),
            "prior1": Affine((U, U), ("embed", "mlp")),
            "prior_out": Affine((U, Z), ("mlp", None), norm=False),
        }

    def weights(self):
        """(kernels by name, as the steps multiply by them; biases and scales by layer)."""
        params = {name: layer() for name, layer in self.layers.items()}
        kernels = {k: w["kernel"].astype(self.dtype) for k, w in params.items()}
        rest = {
            k: {n: x for n, x in w.items() if n != "kernel"} for k, w in params.items()
        }
        D, o = self.deter, self.deter // self.blocks
        hidden, posterior = kernels.pop("hidden"), kernels.pop("posterior")
        kernels["hidden_deter"] = hidden[:, :o]
        # Every block reads the same three inputs, so one matrix product computes all.
        kernels["hidden_shared"] = hidden[:, o:].swapaxes(0, 1).reshape(-1, D)
        kernels["posterior_deter"], kernels["posterior_embed"] = (
            posterior[:D],
            posterior[D:],
        )
        return kernels, rest

    def first(self, B: int) -> Latent:
        """The state before the first step of B worlds: zeros."""
        deter = jnp.zeros((B, self.deter), self.dtype)
        return Latent(deter, jnp.zeros((B, self.stoch, self.classes), self.dtype))

    def observe(self, latent: Latent, actions, embeds, firsts, gumbel):
        """Posterior states of a sequence.

        Args:
          latent: the state before the first step.
          actions: [T, B, A], the action that led to each step.
          embeds: [T, B, E], the encoded observation of each step.
          firsts: bool [T, B], where an episode begins; the state and action before it are
            zeroed.
          gumbel: noise of the states [T, B, S, C].

        Returns:
          states [T, B, ...] and the log-probabilities [T, B, S, C] they were sampled from.
        """
        kernels, rest = self.weights()
        actions = jnp.where(firsts[..., None], 0, actions)
        xs = {
            "keep": ~firsts[..., None],
            "action": self.embed_action(kernels, rest, actions),
            "seen": embeds.astype(self.dtype) @ kernels["posterior_embed"],
            "gumbel": gumbel,
        }
        inside = ("deter_in", "stoch_in", "hidden_deter", "hidden_shared", "gru")
        inside += ("posterior_deter", "posterior_out")

        def step(dot, rest, latent, x):
            latent = Latent(
                latent.deter * x["keep"], latent.stoch * x["keep"][..., None]
            )
            deter = self.advance(dot, rest, latent, x["action"])
            y = dot("posterior_deter", deter) + x["seen"]
            y = norm_act(*biased(y, rest["posterior"]))
            y = dot("posterior_out", y)
            logp = self.categorical(y, rest["posterior_out"])
            latent = Latent(
                deter, straight_through_sample(logp, x["gumbel"]).astype(self.dtype)
            )
            return latent, (latent, logp)

        used = {name: kernels[name] for name in inside}
        return scan(step, used, rest, latent, xs)[1]

    def imagine(self, latent: Latent, act, key, steps: int):
        """Predict `steps` steps under a policy, act(latent, key) -> action [B, A].

        Returns the states [H, B, ...] that the steps led to, and their actions [H, B, A].
        Not made for gradients.
        """

        def choose(latent, step):
            now = row_keys.fold(key, step)
            return act(latent, row_keys.fold(now, 0)), row_keys.fold(now, 1)

        return self.roll(latent, choose, jnp.arange(steps))

    def follow(self, latent: Latent, actions, key):
        """The states [H, B, ...] predicted under given actions [H, B, A]."""

        def choose(_, given):
            step, action = given
            return action, row_keys.fold(key, step)

        return self.roll(latent, choose, (jnp.arange(len(actions)), actions))[0]

    def roll(self, latent, choose, xs):
        """Predict one step for each x: choose(latent, x) -> (action, key of the state)."""
        weights = self.weights()

        def step(latent, x):
            action, key = choose(latent, x)
            gumbel = noise(key, latent.stoch.shape)
            latent = self.one_step(latent, action, gumbel, weights)
            return latent, (latent, action)

        return jax.lax.scan(step, latent, xs)[1]

    def one_step(self, latent: Latent, action, gumbel, weights=None) -> Latent:
        """The state predicted after one action [B, A]; gumbel [B, S, C]."""
        kernels, rest = weights or self.weights()

        def dot(name, x):
            return product(x, kernels[name])

        embedded = self.embed_action(kernels, rest, action)
        deter = self.advance(dot, rest, latent, embedded)
        logp = self.prior_of(dot, rest, deter)
        return Latent(deter, straight_through_sample(logp, gumbel).astype(self.dtype))

    def prior(self, deter):
        """Log-probabilities of stoch given memory alone: [..., D] -> [..., S, C]."""
        kernels, rest = self.weights()
        return self.prior_of(lambda name, x: product(x, kernels[name]), rest, deter)

    def prior_of(self, dot, rest, deter):
        y = norm_act(*biased(dot("prior0", deter), rest["prior0"]))
        y = norm_act(*biased(dot("prior1", y), rest["prior1"]))
        return self.categorical(dot("prior_out", y), rest["prior_out"])

    def categorical(self, y, w):
        y = (y + w["bias"].astype(y.dtype)).reshape(
            *y.shape[:-1], self.stoch, self.classes
        )
        return unimix(y, self.unimix)

    def embed_action(self, kernels, rest, action):
        """Actions [..., A], limited to -1..1 -> [..., U]."""
        action = action / jax.lax.stop_gradient(jnp.maximum(1, jnp.abs(action)))
        y = action.astype(self.dtype) @ kernels["action_in"]
        return norm_act(*biased(y, rest["action_in"]))

    def advance(self, dot, rest, latent: Latent, action):
        """The memory one step on: [B, D]. The gates are reset, candidate and update."""
        h, stoch = latent.deter, flat(latent.stoch)
        u0 = norm_act(*biased(dot("deter_in", h), rest["deter_in"]))
        u1 = norm_act(*biased(dot("stoch_in", stoch), rest["stoch_in"]))
        shared = dot("hidden_shared", jnp.concatenate([u0, u1, action], -1))
        x = norm_act(*biased(dot("hidden_deter", h) + shared, rest["hidden"]))
        gates = dot("gru", x) + rest["gru"]["bias"].astype(x.dtype)
        # Blocks in front, as matrix products leave them: on CPU the gates of rows in
        # their final order take five times as long.
        gates, old = (
            jnp.moveaxis(y.reshape(*h.shape[:-1], self.blocks, -1), -2, 0)
            for y in (gates, h)
        )
        reset, new, update = jnp.split(gates, 3, -1)
        new = jnp.tanh(nn.sigmoid(reset) * new)
        update = nn.sigmoid(update - 1)  # -1: keep the memory by default
        h = jax.lax.optimization_barrier(update * new + (1 - update) * old)
        h = jnp.moveaxis(h, 0, -2).reshape(*h.shape[1:-1], -1)
        return constrain(h, "batch", DETER)


def biased(y, w):
    """y plus the layer's bias, and the scale of its norm."""
    return y + w["bias"].astype(y.dtype), w["scale"]
