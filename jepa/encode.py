"""The frozen encoder as a pure function of pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from jepa.model import Encoder, grid_of, patchify, standardize


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


def video_specs(*, frames: int, rows: int, cols: int) -> dict:
    """Inputs of `make_encode`: one uint8 clip, whose first axis is the batch."""
    return {"video": jax.ShapeDtypeStruct((1, frames, rows, cols, 3), np.uint8)}
