"""The networks of PLDM together: encode images, unroll latents, name the actions between."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.nn.layers import LayerNorm
from core.parallel.layouts import unbox
from core.section import Section
from jepa.worlds.latent_world import LatentWorld
from jepa.worlds.lewm_model import ImageConvolutions, ImageTransformer
from jepa.worlds.pldm_model import Gru, Head, InverseDynamics, ResidualConvolutions

ENCODERS = {
    "impala": ResidualConvolutions,
    "vit": ImageTransformer,
    "conv": ImageConvolutions,
}


class Networks(NamedTuple):
    """The networks, each a pair of pure functions; D is the width of a latent.

    head: features to a latent. norm: of every latent, encoded or predicted, with the same
    weights. skip: environment actions of a block. size: pixels per side of an image. width:
    numbers of an environment action, A.
    """

    encoder: Any
    head: Head
    norm: LayerNorm
    predictor: Gru
    inverse: InverseDynamics
    skip: int
    size: int
    width: int

    def init(self, key) -> dict:
        """Boxed weights by network."""
        keys = jax.random.split(key, 4)
        image = jnp.zeros((1, self.size, self.size, 3), jnp.uint8)
        features = self.encoder.init(keys[0], image)
        seen = jax.eval_shape(self.encoder.apply, unbox(features), image)
        latent = jnp.zeros((1, self.predictor.width))
        block = jnp.zeros((1, self.skip * self.width))
        found = {
            "encoder": features,
            "head": self.head.init(keys[1], jnp.zeros(seen.shape)),
            "norm": self.norm.init(keys[1], latent),
            "predictor": self.predictor.init(keys[2], latent, block),
            "inverse": self.inverse.init(keys[3], latent, latent),
        }
        return {name: weights["params"] for name, weights in found.items()}

    def encode(self, params, images):
        """uint8 [..., size, size, 3] -> latents float32 [..., D]."""
        lead = images.shape[:-3]
        x = images.reshape(-1, *images.shape[-3:])
        for name in ("encoder", "head", "norm"):
            x = getattr(self, name).apply({"params": params[name]}, x)
        return x.astype(jnp.float32).reshape(*lead, -1)

    def predict(self, params, latents, blocks):
        """Latents [..., D] after normalized blocks [..., skip A]."""
        x = self.predictor.apply({"params": params["predictor"]}, latents, blocks)
        return self.norm.apply({"params": params["norm"]}, x).astype(jnp.float32)

    def roll(self, params, latents, blocks):
        """Latents after each of T blocks: [N, D], [N, T, skip A] -> [N, T, D].

        Each prediction sees the one before it; the first sees `latents`.
        """

        def one(z, block):
            z = self.predict(params, z, block)
            return z, z

        _, found = jax.lax.scan(one, latents, blocks.swapaxes(0, 1))
        return found.swapaxes(0, 1)

    def actions_between(self, params, latents):
        """Normalized blocks [B, T - 1, skip A] read from latents [B, T, D]."""
        given = latents[:, :-1], latents[:, 1:]
        return self.inverse.apply({"params": params["inverse"]}, *given)


def make_networks(config: Section, *, width: int) -> Networks:
    """The networks of a config for environment actions of `width` numbers.

    Raises ValueError for fields that do not fit together.
    """
    dtype = jnp.dtype(config["dtype"])
    kind, size = config["encoder"]["kind"], config["data"]["size"]
    if kind not in ENCODERS:
        raise ValueError(f"encoder.kind is {kind!r}; use {', '.join(ENCODERS)}")
    encoder = config["encoder"].without("kind").into(ENCODERS[kind], dtype=dtype)
    encoder.check(size)
    D, skip = config["latent"]["width"], config["clip"]["skip"]
    return Networks(
        encoder,
        Head(D, dtype),
        LayerNorm(1e-5, jnp.float32),
        Gru(D, dtype),
        config["inverse"].into(InverseDynamics, out=skip * width, dtype=dtype),
        skip=skip,
        size=size,
        width=width,
    )


def make_world(networks: Networks) -> LatentWorld:
    """PLDM for evaluations and plans, which see one frame."""

    def roll(weights, latents, blocks):
        return networks.roll(weights["params"], latents[:, -1], blocks)

    return LatentWorld(
        weights_of=weights_of,
        encode=lambda weights, images: networks.encode(weights["params"], images),
        predict=lambda weights, *given: networks.predict(weights["params"], *given),
        roll=roll,
        skip=networks.skip,
        size=networks.size,
    )


def weights_of(state) -> dict:
    """What inference reads of a state."""
    return {"params": state.params, "actions": state.actions}
