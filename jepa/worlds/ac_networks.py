"""The networks of V-JEPA 2-AC: a frozen encoder and a predictor of its features."""

from typing import NamedTuple

import jax.numpy as jnp

from core.nn.layers import normalize
from core.section import Section
from jepa.nets.encode import make_encode
from jepa.nets.model import Encoder, encoder_size
from jepa.nets.networks import token_grid
from jepa.worlds.ac_model import ActionPredictor


class Networks(NamedTuple):
    """The frozen encoder and the predictor, as pure functions.

    grid: rows and columns of patches of a view. embodiment: that of the data.
    """

    encoder: Encoder
    predictor: ActionPredictor
    grid: tuple[int, int]
    embodiment: str

    def encode(self, params, images):
        """Features float32 [..., V N, D] of uint8 images [..., V, H, W, 3].

        Each image fills all frames of a tubelet; features are normalized without scale.
        """
        *lead, V, H, W, C = images.shape
        clips = jnp.repeat(
            images.reshape(-1, 1, H, W, C), self.encoder.patch[0], axis=1
        )
        x = make_encode(self.encoder)(params, {"video": clips})
        return normalize(x, eps=1e-5).reshape(*lead, -1, x.shape[-1])

    def predict(self, params, features, actions, states):
        """Normalized features after each step: [B, T, V N, D], of arrays [B, T, ...]."""
        x = self.predictor.apply(
            {"params": params},
            features,
            actions,
            states,
            grid=self.grid,
            embodiment=self.embodiment,
        )
        return normalize(x, eps=1e-5)

    def roll(self, params, features, actions, states, *, window: int = 0):
        """Features after each of the last steps, each predicted from those before it.

        Args:
          features: of the first n frames, [B, n, V N, D].
          actions, states: [B, T, ...] of T >= n steps, the first n of those frames.
          window: most frames that a prediction sees; 0 for all.

        Returns:
          [B, T - n + 1, V N, D]
        """
        n, T, found = features.shape[1], actions.shape[1], []
        for t in range(n, T + 1):
            seen = slice(max(0, t - window) if window else 0, t)
            guess = self.predict(
                params, features[:, seen], actions[:, seen], states[:, seen]
            )[:, -1:]
            features = jnp.concatenate([features, guess], 1)
            found.append(guess)
        return jnp.concatenate(found, 1)


def make_networks(config: Section) -> tuple[Networks, tuple[int, int]]:
    """(networks, numbers of an action and of a state) of a config.

    Raises ValueError for fields that do not fit together.
    """
    data, robots = config["data"], config["embodiments"]
    encoder = (
        config["encoder"]
        .without("size")
        .into(
            Encoder,
            **encoder_size(config["encoder"]["size"]),
            dtype=jnp.dtype(config["dtype"]),
        )
    )
    rows = token_grid(encoder.patch, frames=encoder.patch[0], size=data["size"])[1:]
    widths = {name: (robots[name]["action"], robots[name]["state"]) for name in robots}
    robot = config["embodiment"]
    if robot not in widths:
        raise ValueError(f"embodiment is {robot!r}; use one of {', '.join(widths)}")
    predictor = config["predictor"].into(
        ActionPredictor,
        out=encoder.width,
        embodiments=tuple((name, *widths[name]) for name in widths),
        views=max(1, len(data["images"])),
        positions=encoder.positions,
        remat=encoder.remat,
        attention=encoder.attention,
        dtype=encoder.dtype,
    )
    return Networks(encoder, predictor, rows, robot), widths[robot]
