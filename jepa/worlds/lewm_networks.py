"""The networks of LeWorldModel together: encode images, predict latents under actions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.parallel.layouts import unbox
from core.section import Section
from jepa.worlds.latent_world import LatentWorld
from jepa.worlds.lewm_model import (
    ActionEncoder,
    ImageConvolutions,
    ImageTransformer,
    Predictor,
    Projector,
)

ENCODERS = {"vit": ImageTransformer, "conv": ImageConvolutions}


class Networks(NamedTuple):
    """The networks, each a pair of pure functions; D is the width of a latent.

    skip: environment actions of a block. size: pixels per side of an image. width: numbers
    of an environment action, A.
    """

    encoder: Any
    projector: Projector
    action: ActionEncoder
    predictor: Predictor
    pred_proj: Projector
    skip: int
    size: int
    width: int

    def init(self, key) -> dict:
        """Boxed weights by network."""
        keys = jax.random.split(key, 5)
        history, D = self.predictor.history, self.projector.out
        image = jnp.zeros((1, self.size, self.size, 3), jnp.uint8)
        block = jnp.zeros((1, history, self.skip * self.width))
        features = self.encoder.init(keys[0], image)
        seen = jax.eval_shape(self.encoder.apply, unbox(features), image)
        latents = jnp.zeros((1, history, D))
        moves = jnp.zeros((1, history, self.action.out))
        found = {
            "encoder": features,
            "projector": self.projector.init(keys[1], jnp.zeros(seen.shape)),
            "action": self.action.init(keys[2], block),
            "predictor": self.predictor.init(keys[3], latents, moves),
            "pred_proj": self.pred_proj.init(
                keys[4], jnp.zeros((1, self.predictor.width))
            ),
        }
        return {name: weights["params"] for name, weights in found.items()}

    def encode(self, params, images, norms=None):
        """(latents float32 [..., D], what the batch norm was given) of uint8 images.

        images: [..., size, size, 3]. norms: running moments by network; None takes those of
        the batch.
        """
        lead = images.shape[:-3]
        x = self.encoder.apply(
            {"params": params["encoder"]}, images.reshape(-1, *images.shape[-3:])
        )
        running = None if norms is None else norms["projector"]
        z, seen = self.projector.apply({"params": params["projector"]}, x, running)
        return z.reshape(*lead, -1), seen

    def predict(self, params, latents, blocks, norms=None, keys=None):
        """(the next latent at every step [B, T, D], what the batch norm was given).

        Args:
          latents: [B, T, D]. blocks: normalized actions [B, T, skip A], taken after each.
          norms: as in `encode`. keys: for dropout, as in `Predictor`.
        """
        moves = self.action.apply({"params": params["action"]}, blocks)
        x = self.predictor.apply({"params": params["predictor"]}, latents, moves, keys)
        running = None if norms is None else norms["pred_proj"]
        return self.pred_proj.apply({"params": params["pred_proj"]}, x, running)

    def roll(self, params, latents, blocks, norms, *, window: int):
        """Latents after each of the last H blocks, from predicted ones: [N, H, D].

        latents: [N, n, D]. blocks: [N, n - 1 + H, skip A]. window: most latents that a
        prediction sees. Actions are embedded once, before the first step.
        """
        moves = self.action.apply({"params": params["action"]}, blocks)
        vectors = self.predictor.modulations(params["predictor"], moves)
        known, first = list(jnp.moveaxis(latents, 1, 0)), latents.shape[1]
        for end in range(first, blocks.shape[1] + 1):
            seen = slice(max(0, end - window), end)
            x = self.predictor.apply(
                {"params": params["predictor"]},
                jnp.stack(known[seen], 1),
                None,
                vectors=[v[:, seen] for v in vectors],
            )
            known.append(
                self.pred_proj.apply(
                    {"params": params["pred_proj"]}, x[:, 0], norms["pred_proj"]
                )[0]
            )
        return jnp.stack(known[first:], 1)


def make_world(networks: Networks, *, window: int) -> LatentWorld:
    """LeWorldModel for evaluations and plans. window: most latents that a prediction in a
    rollout sees, up to the history of training.
    """

    def encode(weights, images):
        return networks.encode(weights["params"], images, weights["norms"])[0]

    def predict(weights, latents, blocks):
        params, norms = weights["params"], weights["norms"]
        return networks.predict(params, latents, blocks, norms)[0]

    def roll(weights, latents, blocks):
        params, norms = weights["params"], weights["norms"]
        return networks.roll(params, latents, blocks, norms, window=window)

    return LatentWorld(
        weights_of=weights_of,
        encode=encode,
        predict=predict,
        roll=roll,
        skip=networks.skip,
        size=networks.size,
        history=window,
    )


def weights_of(state) -> dict:
    """What inference reads of a state."""
    return {"params": state.params, "norms": state.norms, "actions": state.actions}


def make_networks(config: Section, *, width: int) -> Networks:
    """The networks of a config for environment actions of `width` numbers.

    Raises ValueError for fields that do not fit together.
    """
    dtype = jnp.dtype(config["dtype"])
    kind, clip, size = config["encoder"]["kind"], config["clip"], config["data"]["size"]
    if kind not in ENCODERS:
        raise ValueError(f"encoder.kind is {kind!r}; use {' or '.join(ENCODERS)}")
    encoder = config["encoder"].without("kind").into(ENCODERS[kind], dtype=dtype)
    encoder.check(size)
    for name in ("history", "skip"):
        if clip[name] < 1:
            raise ValueError(f"clip.{name} is {clip[name]}; use 1 or more")
    latent = config["latent"]
    predictor = config["predictor"].into(
        Predictor, history=clip["history"], dtype=dtype
    )
    D, hidden = latent["width"], latent["hidden"]
    return Networks(
        encoder,
        Projector(hidden, D, dtype),
        config["action"].into(ActionEncoder, out=predictor.width, dtype=dtype),
        predictor,
        Projector(hidden, D, dtype),
        skip=clip["skip"],
        size=size,
        width=width,
    )
