"""Text of the model cards of V-JEPA's exports."""

import math

from jepa.nets.model import MEAN, STD, Encoder, grid_of

TITLE = "A V-JEPA video encoder, pretrained with Reverie"
WHAT = """\
Turns a clip into one feature vector per tubelet of {} (frames, rows, columns). It has
learned to predict the features of hidden parts of videos, without labels."""

IMAGE_TITLE = "An I-JEPA image encoder, pretrained with Reverie"
IMAGE_WHAT = """\
Turns an image into one feature vector per patch of {} (frames, rows, columns). It has
learned to predict the features of hidden blocks of images, without labels."""
VIEW_TITLE = "A LeVJEPA video encoder, pretrained with Reverie"
VIEW_WHAT = """\
Turns a clip into one feature vector per token of {} (frames, rows, columns). It has learned
to give views of a clip the same embedding, without labels."""
VIEW_NETWORK = """\
The encoder as it was trained; the final layer norm is included. The projector, which only
training reads, is left out."""
VIEW_AVERAGE = """\
The exponential moving average of the encoder; the final layer norm is included. It is of use
after training alone: the encoder was trained without a target."""

NETWORK = """\
The target encoder: the exponential moving average of the trained encoder, as in the
weights that Meta publishes. The final layer norm is included."""
ONLINE = """\
The online encoder: the one that is trained by gradients, not its moving average. The final
layer norm is included. Findings whose names do not say `online` are of the target encoder."""
PREDICTOR = """\
The predictor is the trained one."""
LEVELS = """\
Features of blocks {levels}, counted from 0, are wanted besides: the tokens after a block,
through the final layer norm."""

INPUTS = """\
`video`: uint8 RGB of shape [batch, {frames}, {rows}, {cols}, 3]. The program itself
scales it to [0, 1] and standardizes the channels with mean {mean}
and deviation {std}.
Output: float32 features [batch, {tokens}, {width}], one row per tubelet in the order
time, row, column."""
WITH_LEVELS = """\
The outputs are named: `features`, and of the same shape {levels}."""
WITH_PREDICTOR = """\
`predictor`: `features` [batch, {tokens}, {width}] and `visible`, bool [batch, {tokens}], ->
predictions of the features of hidden tokens [batch, {tokens}, {width}]. Rows of visible


tokens mean nothing."""
INPUTS_IMAGE = """
The program `image` is the same for `video` of a single frame, an image, which this encoder
embeds by itself."""

HF_INPUTS = """\
`pixel_values_videos`: float32 RGB [batch, frames, channels, rows, columns], scaled to
[0, 1], then standardized with mean {mean} and deviation {std}; the steps are in
`video_preprocessor_config.json`. Output: features [batch, tokens, {width}]."""

HF_USAGE = """\
import torch, transformers

model = transformers.AutoModel.from_pretrained(".")
video = torch.zeros(1, {frames}, 3, {crop_size}, {crop_size})
with torch.no_grad():
    features = model(video, skip_predictor=True).last_hidden_state
"""

STATISTICS = {"mean": ", ".join(map(str, MEAN)), "std": ", ".join(map(str, STD))}


def network(
    encoder: str, *, predictor: bool, levels: tuple[int, ...] = (), which: str = ""
) -> str:
    """Which weights an export holds. encoder: "target" or "online".

    which: the text for "target" of a method whose target is no copy that it predicts.
    """
    parts = [which or NETWORK if encoder == "target" else ONLINE]
    parts += [PREDICTOR] * predictor
    named = ", ".join(map(str, levels))
    return " ".join(parts + [LEVELS.format(levels=named)] * bool(levels))


def describe(
    encoder: Encoder,
    *,
    frames: int,
    rows: int,
    cols: int,
    predictor: bool = False,
    levels: tuple[int, ...] = (),
) -> str:
    """Input and output of the StableHLO programs."""
    tokens = math.prod(grid_of((frames, rows, cols, 3), encoder.patch))
    sizes = {"frames": frames, "rows": rows, "cols": cols, "tokens": tokens}
    sizes |= {"width": encoder.width, **STATISTICS}
    named = ", ".join(f"`block{level}`" for level in levels)
    parts = [INPUTS.format(**sizes)]
    parts += [WITH_LEVELS.format(levels=named)] * bool(levels)
    parts += ["\n" + WITH_PREDICTOR.format(**sizes)] * predictor
    return "\n".join(parts)


def describe_hf(encoder: Encoder) -> str:
    """Input and output of a Hugging Face folder."""
    return HF_INPUTS.format(width=encoder.width, **STATISTICS)


def usage_hf(*, frames: int, crop_size: int) -> str:
    """The lines of Python that run a Hugging Face folder."""
    return HF_USAGE.format(frames=frames, crop_size=crop_size)
