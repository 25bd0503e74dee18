"""The networks of V-JEPA 2-AC: a frozen encoder and a predictor of its features."""

from typing import NamedTuple

import jax.numpy as jnp

from core.nn.layers import normalize
from core.section import Section
from jepa.nets.encode import encode_images
from jepa.nets.model import Encoder
from jepa.worlds.ac_model import ActionPredictor
from jepa.worlds.cached_rollout import roll_cached
from jepa.worlds.frozen_features import make_encoder


class Networks(NamedTuple):
    """The frozen encoder and the predictor, as pure functions.

    grid: rows and columns of patches of a view. embodiment: that of the data. history: most
    frames that a prediction sees in training.
    """

    encoder: Encoder
    predictor: ActionPredictor
    grid: tuple[int, int]
    embodiment: str
    history: int

    def encode(self, params, images):
        """Features float32 [..., V N, D] of uint8 images [..., V, H, W, 3]."""
        return encode_images(self.encoder, params, images)

    def observe(self, weights, features, states):
        """Frames, as in jepa.worlds.feature_model.FeatureModel."""
        return {"features": features, "states": states}

    def open_loop(self, weights, seen, actions, *, window: int = 0):
        """Features after each of the last steps; the state is the last one that is known."""
        window = window or self.history
        if actions.shape[1] <= window:
            return self.open_loop_cached(weights["predictor"], seen, actions)
        states, later = seen["states"], actions.shape[1] - seen["states"].shape[1]
        held = jnp.repeat(states[:, -1:], later, 1)
        found = self.roll(
            weights["predictor"],
            seen["features"],
            actions,
            jnp.concatenate([states, held], 1),
            window=window,
        )
        return {"features": found}

    def open_loop_cached(self, params, seen, actions):
        """The same where a prediction sees all frames."""
        held = seen["states"][:, -1:]

        def extend(frames, actions, cache, first):
            states = frames.get("states", held)
            x, cache = self.predict_on(
                params, frames["features"], actions, states, cache=cache, first=first
            )
            return {"features": x}, cache

        B, _, N, _ = seen["features"].shape
        cache = self.predictor.make_cache(B, actions.shape[1], N)
        return roll_cached(extend, seen, actions, cache)

    def gap(self, x, y):
        """Absolute errors."""
        return jnp.abs(x - y)

    def distance(self, found, goal):
        """The energy: mean absolute error between features, [..., V N, D] -> [...]."""
        return self.gap(found["features"], goal["features"]).mean((-2, -1))

    def predict(self, params, features, actions, states):
        """Normalized features after each step: [B, T, V N, D], of arrays [B, T, ...]."""
        return self.predict_on(params, features, actions, states)[0]

    def predict_on(self, params, features, actions, states, *, cache=None, first=0):
        """(the same, the cache with these steps), after the `first` ones of a cache."""
        x = self.predictor.apply(
            {"params": params},
            features,
            actions,
            states,
            grid=self.grid,
            embodiment=self.embodiment,
            cache=cache,
            first=first,
        )
        x, cache = (x, None) if cache is None else x
        return normalize(x, eps=1e-5), cache

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
    encoder, grid = make_encoder(config)
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
    history = config["clip"]["frames"] - 1
    return Networks(encoder, predictor, grid, robot, history), widths[robot]
