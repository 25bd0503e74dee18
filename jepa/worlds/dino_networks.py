"""The networks of DINO-WM: a frozen encoder, embeddings of actions and states, a predictor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.section import Section
from jepa.nets.encode import encode_images
from jepa.nets.model import Encoder, check_width
from jepa.worlds.cached_rollout import roll_cached
from jepa.worlds.clip_statistics import normalized
from jepa.worlds.dino_model import AdaLNPredictor, Embedding, FeaturePredictor
from jepa.worlds.frozen_features import make_encoder

CONDITIONING = ("feature", "adaln")


class Networks(NamedTuple):
    """A jepa.worlds.feature_model.FeatureModel; a frame has "features" and "proprio".

    weights: {"encoder", "predictor", "action", "statistics"}, and "proprio" with states.

    Attributes:
      action, proprio: linear maps; proprio is None without states.
      grid: rows and columns of patches of a view. views: cameras.
      history: most frames that a prediction sees. steps: environment steps whose actions
        lie side by side. alpha: weight of proprioception in the cost of plans.
    """

    encoder: Encoder
    predictor: Any
    action: Embedding
    proprio: Embedding | None
    grid: tuple[int, int]
    views: int
    history: int
    steps: int
    alpha: float

    def init(self, key, widths: tuple[int, int]) -> dict:
        """Boxed weights of all but the encoder. widths: of an action and of a state."""
        keys = jax.random.split(key, 3)
        A, S = widths
        params = {"action": self.action.init(keys[0], jnp.zeros((1, 1, A)))["params"]}
        width = 0
        if self.proprio is not None:
            first = self.proprio.init(keys[1], jnp.zeros((1, 1, S)))
            params["proprio"], width = first["params"], self.proprio.width
        N = self.views * self.grid[0] * self.grid[1]
        params["predictor"] = self.predictor.init(
            keys[2],
            jnp.zeros((1, self.history, N, self.predictor.out)),
            jnp.zeros((1, self.history, N, width)),
            jnp.zeros((1, self.history, self.action.width)),
            grid=self.grid,
            views=self.views,
        )["params"]
        return params

    def encode(self, params, images):
        """Features float32 [..., V N, D] of uint8 images [..., V, H, W, 3]."""
        return encode_images(self.encoder, params, images)

    def observe(self, weights, features, states):
        """Frames; "proprio" [B, n, V N, P] is the embedded state, beside every patch."""
        B, n, N, _ = features.shape
        if self.proprio is None:
            return {"features": features, "proprio": jnp.zeros((B, n, N, 0))}
        x = normalized(states, weights["statistics"]["state"])
        x = self.proprio.apply({"params": weights["proprio"]}, x)
        x = jnp.broadcast_to(x[:, :, None], (B, n, N, x.shape[-1]))
        return {"features": features, "proprio": x}

    def predict(self, weights, seen: dict, actions, keys=None) -> dict:
        """The frame after each of T frames, T up to `history`.

        actions: [B, T, A] in units of the data, taken after each. keys: of the rows, [B],
        for dropout.
        """
        features, proprio = self.predictor.apply(
            {"params": weights["predictor"]},
            seen["features"],
            seen["proprio"],
            self.embed_actions(weights, actions),
            keys,
            grid=self.grid,
            views=self.views,
        )
        return {"features": features, "proprio": proprio}

    def open_loop(self, weights, seen: dict, actions, *, window: int = 0) -> dict:
        """As of jepa.worlds.feature_model.FeatureModel; window 0 is `history`."""
        n, T, found = seen["features"].shape[1], actions.shape[1], []
        window = window or self.history
        if T <= window and isinstance(self.predictor, AdaLNPredictor):
            return self.open_loop_cached(weights, seen, actions)
        for t in range(n, T + 1):
            part = slice(max(0, t - window), t)
            known = jax.tree.map(lambda x, part=part: x[:, part], seen)
            guess = self.predict(weights, known, actions[:, part])
            guess = jax.tree.map(lambda x: x[:, -1:], guess)
            seen = append(seen, guess)
            found.append(guess)
        return jax.tree.map(lambda *xs: jnp.concatenate(xs, 1), *found)

    def open_loop_cached(self, weights, seen: dict, actions) -> dict:
        """The same where a prediction sees all frames."""
        moves = self.embed_actions(weights, actions)

        def extend(frames, moves, cache, first):
            features, proprio, cache = self.predictor.apply(
                {"params": weights["predictor"]},
                frames["features"],
                frames["proprio"],
                moves,
                grid=self.grid,
                views=self.views,
                cache=cache,
                first=first,
            )
            return {"features": features, "proprio": proprio}, cache

        B, _, N, P = seen["proprio"].shape
        cache = self.predictor.make_cache(B, actions.shape[1], N, P)
        return roll_cached(extend, seen, moves, cache)

    def embed_actions(self, weights, actions):
        """Actions [B, T, A] in units of the data -> [B, T, C]."""
        x = normalized(actions, weights["statistics"]["action"], self.steps)
        return self.action.apply({"params": weights["action"]}, x)

    def gap(self, x, y):
        """Squared errors."""
        return jnp.square(x - y)

    def distance(self, found: dict, goal: dict):
        """Mean squared error of patches, and alpha times that of proprioception."""
        return self.error(found, goal, self.alpha)

    def error(self, found: dict, wanted: dict, weight: float):
        """Mean squared errors of frames, [..., V N, *] -> [...]: patches + weight proprio."""
        error = self.gap(found["features"], wanted["features"]).mean((-2, -1))
        if self.proprio is None or not weight:
            return error
        other = self.gap(found["proprio"], wanted["proprio"]).mean((-2, -1))
        return error + weight * other


def append(seen: dict, more: dict) -> dict:
    """Frames and further ones, along time."""
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y], 1), seen, more)


def make_networks(config: Section) -> Networks:
    """The networks of a config.

    Raises ValueError for fields that do not fit together.
    """
    data, clip, plan = config["data"], config["clip"], config["plan"]
    kind, embed = config["conditioning"], config["embed"]
    if kind not in CONDITIONING:
        raise ValueError(f"conditioning is {kind!r}; use {' or '.join(CONDITIONING)}")
    for field, value, least in (
        ("clip.history", clip["history"], 2),
        ("clip.skip", clip["skip"], 1),
        ("plan.alpha", plan["alpha"], 0),
        ("objective.proprio", config["objective"]["proprio"], 0),
    ):
        if not value >= least:
            raise ValueError(f"{field} is {value}; use {least} or more")
    if plan["alpha"] and not data["states"]:
        raise ValueError(
            f"plan.alpha is {plan['alpha']}, but data.states names no observation; name "
            "proprioception there, or use plan.alpha 0"
        )
    encoder, grid = make_encoder(config)
    dtype = encoder.dtype
    given = {"out": encoder.width, "attention": encoder.attention, "dtype": dtype}
    if kind == "feature":
        predictor = config["predictor"].into(
            FeaturePredictor, history=clip["history"], **given
        )
    else:
        given |= {"positions": encoder.positions, "remat": encoder.remat}
        predictor = config["predictor"].into(
            AdaLNPredictor, rescale=encoder.rescale, **given
        )
        inner = predictor.heads * predictor.head_dim
        check_width("predictor", inner, predictor.heads, predictor.positions)

    return Networks(
        encoder,
        predictor,
        Embedding(embed["action"], dtype),
        Embedding(embed["proprio"], dtype) if data["states"] else None,
        grid,
        views=max(1, len(data["images"])),
        history=clip["history"],
        steps=clip["skip"] if data["action"] == "concatenated" else 1,
        alpha=plan["alpha"],
    )
