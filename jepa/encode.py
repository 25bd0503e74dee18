"""The frozen encoder as a pure function of pixels, and its baselines."""

import jax
import jax.numpy as jnp
import numpy as np

from core.method import Frozen
from core.parallel.layouts import unbox
from core.section import Section
from jepa.classifier import published_classifier
from jepa.model import Encoder, grid_of, patchify, standardize

CELL = 4  # rows and columns of the cells that "pixels" are averaged over


def make_encode(encoder: Encoder):
    """(params, {"video": [B, T, H, W, 3]}) -> float32 features [B, N, D].

    uint8 video is standardized here; float video is taken to be standardized already. The
    token grid is that of the clip itself.
    """

    def encode(params, inputs):
        video = inputs["video"]
        patches = patchify(video, encoder.patch)
        if video.dtype == jnp.uint8:
            patches = standardize(patches)
        grid = grid_of(video.shape, encoder.patch)
        return encoder.apply({"params": params}, patches, grid=grid).astype(jnp.float32)

    return encode


def coarse_patches(video, patch):
    """uint8 [B, T, H, W, 3] -> standardized tubelets of the video, CELL times coarser."""
    B, T, H, W, C = video.shape
    t, *sides = patch
    if any(side % CELL for side in sides):
        return standardize(patchify(video, patch))
    x = video.reshape(B, T, H // CELL, CELL, W // CELL, CELL, C)
    x = x.astype(jnp.float32).mean((3, 5))
    return standardize(patchify(x, (t, *(side // CELL for side in sides))))


def video_specs(*, frames: int, rows: int, cols: int) -> dict:
    """Inputs of `make_encode`: one uint8 clip, whose first axis is the batch."""
    return {"video": jax.ShapeDtypeStruct((1, frames, rows, cols, 3), np.uint8)}


def make_frozen(encoder: Encoder, init, *, seed: int, data: Section) -> Frozen:
    """The EMA target, the encoder that is trained, an untrained one, and pixels.

    "pixels" are the standardized tubelets, averaged over cells of CELL x CELL pixels.
    """
    encode = make_encode(encoder)

    def tokens(params, video):
        if video.shape[1] % encoder.patch[0]:
            raise ValueError(
                f"clips have {video.shape[1]} frames; expected a multiple of "
                f"{encoder.patch[0]}"
            )
        if params is None:
            return coarse_patches(video, encoder.patch)
        return encode(params, {"video": video})

    def untrained(state):
        return jax.jit(lambda: unbox(init(jax.random.key(seed))).target)()

    return Frozen(
        weights={
            "target": lambda state: state.target,
            "online": lambda state: state.params["encoder"],
            "untrained": untrained,
            "pixels": lambda state: None,
        },
        encode=tokens,
        frames=data["frames"],
        fps=data["fps"],
        size=data["size"],
        classifier=published_classifier,
    )
