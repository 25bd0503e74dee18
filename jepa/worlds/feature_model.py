"""What plans and evaluations need of a predictor in the features of a frozen encoder."""

from typing import Any, Protocol

import jax


class FeatureModel(Protocol):
    """Networks as pure functions. weights: {"encoder", "predictor", and a method's own}.

    Frames are dicts of arrays [B, n, ...] with "features" [B, n, V N, D] among them: what is
    known of n frames, or predicted of them.
    """

    def encode(self, params: Any, images: jax.Array) -> jax.Array:
        """Features [..., V N, D] of uint8 images [..., V, H, W, 3]. params: the encoder's."""
        ...

    def observe(self, weights: Any, features: jax.Array, states: jax.Array) -> dict:
        """Frames of features [B, n, V N, D] and states [B, n, S]."""
        ...

    def open_loop(
        self, weights: Any, seen: dict, actions: jax.Array, *, window: int = 0
    ) -> dict:
        """Frames after each of the last steps, each predicted from those before it.

        Args:
          seen: the first n frames. actions: [B, T, A] of T >= n steps, the first n - 1
            between those frames.
          window: most frames that a prediction sees; 0 for as many as in training.

        Returns:
          T - n + 1 frames.
        """
        ...

    def gap(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Errors of numbers: absolute or squared, whichever is trained."""
        ...

    def distance(self, found: dict, goal: dict) -> jax.Array:
        """How far frames are from a goal: two dicts of [..., *] -> [...]. The cost of plans."""
        ...
