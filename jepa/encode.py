"""The frozen encoder as a pure function of pixels, and the words for its model card."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jepa.model import MEAN, STD, Encoder, grid_of, patchify, standardize

NETWORK = """\
The target encoder: the exponential moving average of the trained encoder, as in the
weights that Meta publishes. The final layer norm is included."""

INPUTS = """\
`video`: uint8 RGB of shape [batch, {frames}, {rows}, {cols}, 3]. The program itself
scales it to [0, 1] and standardises the channels with mean {mean}
and deviation {std}.
Output: float32 features [batch, {tokens}, {width}], one row per tubelet in the order
time, row, column."""

HF_INPUTS = """\
`pixel_values_videos`: float32 RGB [batch, frames, channels, rows, columns], scaled to
[0, 1], then standardised with mean {mean} and deviation {std}; the steps are in
`video_preprocessor_config.json`. Output: features [batch, tokens, {width}]."""

HF_USAGE = """\
import torch, transformers

model = transformers.AutoModel.from_pretrained(".")
video = torch.zeros(1, {frames}, 3, {crop_size}, {crop_size})
with torch.no_grad():
    features = model(video, skip_predictor=True).last_hidden_state
"""

STATISTICS = {"mean": ", ".join(map(str, MEAN)), "std": ", ".join(map(str, STD))}


def make_encode(encoder: Encoder):
    """(params, {"video": [B, T, H, W, 3]}) -> float32 features [B, N, D].

    uint8 video is standardised here; float video is taken to be standardised. The token
    grid is that of the clip itself.
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
    """Inputs of `make_encode`: a uint8 clip, the first axis being the batch."""
    return {"video": jax.ShapeDtypeStruct((1, frames, rows, cols, 3), np.uint8)}


def describe(encoder: Encoder, *, frames: int, rows: int, cols: int) -> str:
    """Input and output of the StableHLO program, for its model card."""
    tokens = math.prod(grid_of((frames, rows, cols, 3), encoder.patch))
    clip = {"frames": frames, "rows": rows, "cols": cols, "tokens": tokens}
    return INPUTS.format(**clip, width=encoder.width, **STATISTICS)


def describe_hf(encoder: Encoder) -> str:
    """Input and output of a Hugging Face folder, for its model card."""
    return HF_INPUTS.format(width=encoder.width, **STATISTICS)


def usage_hf(*, frames: int, crop_size: int) -> str:
    """The lines that run a Hugging Face folder."""
    return HF_USAGE.format(frames=frames, crop_size=crop_size)
