"""Errors of V-JEPA's predictor on the later part of a clip, and on copies of the last frame.

The context are the tubelets before an instant, the targets all later ones; the error is the
mean absolute difference to the target encoder's normalized features of the whole clip, as
in training (arXiv 2404.08471, section 3; the evaluation is that of arXiv 2502.11831).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.evals.surprise import Surprise
from core.nn.layers import normalize
from core.parallel.layouts import unbox
from jepa.nets.encode import coarse_patches
from jepa.nets.model import patchify, standardize


def predictor_errors(encoder, predictor, params, target, video, *, grid, use):
    """Errors at every instant between two time steps of tubelets: float32 [B, t - 1].

    params: "encoder" and "predictor". target: weights of the target encoder.
    use: number of the mask token.
    """
    t, cells = grid[0], grid[1] * grid[2]
    B, N = len(video), t * cells
    patches = standardize(patchify(video, encoder.patch))
    truth = target_features(encoder, target, patches, grid)
    index = jnp.broadcast_to(jnp.arange(N), (B, N))
    found = []
    for seen in range(cells, N, cells):
        features = encoder.apply(
            {"params": params["encoder"]}, patches[:, :seen], index[:, :seen], grid=grid
        )
        guess = predictor.apply(
            {"params": params["predictor"]},
            features,
            index[:, :seen],
            index[:, seen:],
            grid=grid,
            use=(use,),
        )
        found.append(jnp.abs(guess.astype(jnp.float32) - truth[:, seen:]).mean((1, 2)))
    return jnp.stack(found, 1)


def copy_errors(tokens, *, grid):
    """Errors of carrying on the last visible time step: [B, t h w, D] -> [B, t - 1]."""
    steps = tokens.reshape(len(tokens), grid[0], -1)
    return jnp.stack(
        [
            jnp.abs(steps[:, i:] - steps[:, i - 1 : i]).mean((1, 2))
            for i in range(1, grid[0])
        ],
        1,
    )


def target_features(encoder, target, patches, grid):
    """Normalized features [B, N, D] of whole clips."""
    return normalize(encoder.apply({"params": target}, patches, grid=grid), eps=1e-5)


def make_surprise(encoder, predictor, init, *, grid, use, seed: int) -> Surprise:
    """The trained predictor, an untrained one, and copies of the last features or pixels.

    use: number of the mask token of each pattern; the last one's is taken. Copies of
    features are those of the trained target. Raises ValueError for a state that lacks the
    predictor.
    """

    def errors(params, target):
        run = jax.jit(
            functools.partial(
                predictor_errors, encoder, predictor, grid=grid, use=use[-1]
            )
        )
        return lambda video: np.asarray(run(params, target, video))

    def trained(state):
        if state.params["predictor"] is None:
            raise ValueError(
                "surprise needs a predictor, which these weights lack; name other "
                "evaluations, such as --eval=physical"
            )
        return errors(state.params, state.target)

    def untrained(state):
        def fresh():
            state = unbox(init(jax.random.key(seed)))
            return state.params, state.target

        return errors(*jax.jit(fresh)())

    def copied(tokens, *weights):
        run = jax.jit(lambda *given: copy_errors(tokens(*given), grid=grid))
        return lambda video: np.asarray(run(*weights, video))

    def features(target, video):
        patches = standardize(patchify(video, encoder.patch))
        return target_features(encoder, target, patches, grid)

    return {
        "trained": trained,
        "untrained": untrained,
        "copy_features": lambda state: copied(features, state.target),
        "copy_pixels": lambda state: copied(
            functools.partial(coarse_patches, patch=encoder.patch)
        ),
    }
