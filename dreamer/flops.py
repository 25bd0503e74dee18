"""Useful floating point operations of an update, from the shapes of the networks.

Matrix products and convolutions of the published networks, two operations per
multiply-add; the backward pass costs twice the forward pass. Implementations that need
fewer operations count as what they replace.
"""

import numpy as np

from core.agents import action_distributions
from core.nn import distributions
from dreamer import nets


def mlp(inputs, width, depth, outputs=0):
    """Multiply-adds of an MLP for one row."""
    return inputs * width + (depth - 1) * width * width + width * outputs


def images(spaces, depth, form):
    """Multiply-adds of the convolutions for one frame: (encoder, decoder)."""
    shapes = [s.shape for _, s in spaces if s.is_image]
    if not shapes:
        return 0, 0
    side, total = shapes[0][0], sum(shape[-1] for shape in shapes)
    taps, many = nets.KERNEL**2, [m * depth for m in nets.CHANNELS[form]]
    # Stride-1 layers run at the size before pooling, and after upsampling.
    strided = form == "stride"
    down, size, inputs = 0, side, total
    for i, outputs in enumerate(many):
        size = size // 2 if strided and i else size
        down += size**2 * taps * inputs * outputs
        size = size if strided else size // 2
        inputs = outputs
    up = 0
    for outputs in [*many[::-1][1:], total]:
        if strided and outputs == total:
            up += size**2 * taps * inputs * outputs
            continue
        up += (2 * size) ** 2 * taps * inputs * outputs // (4 if strided else 1)
        size, inputs = 2 * size, outputs
    return down, up


def update(model, behavior, *, batch, length) -> float:
    """Operations of one update on `batch` sequences of `length` steps.

    Imagination starts at `behavior.last` steps of each; `behavior` may be None.
    """
    r, units, depth = model.rssm, model.encoder.width, model.encoder.depth
    D, U, Z, G = r.deter, r.hidden, r.stoch * r.classes, r.blocks
    vector = sum(s.width for _, s in model.spaces if not s.is_image)
    down, up = images(model.spaces, depth, model.encoder.form)
    encoder = down + (mlp(vector, units, 3) if vector else 0)
    decoder = up + (mlp(D + Z, units, 3, vector) if vector else 0)
    if down:
        count = len(nets.CHANNELS[model.encoder.form])
        side = next(s.shape[0] for _, s in model.spaces if s.is_image)
        side = side // 2 ** (count - (model.encoder.form == "stride"))
        area = side**2 * nets.CHANNELS[model.encoder.form][-1] * depth
        decoder += D * area // G + Z * 2 * units + 2 * units * area
    memory = (D + Z + r.action) * U + D * (D // G + 3 * U) + D * 3 * D // G
    posterior = (D + r.embed) * U + U * Z
    prior = D * U + U * U + U * Z
    head = lambda depth, out: mlp(D + Z, units, depth, out)  # noqa: E731
    heads = head(1, distributions.BINS) + head(1, 1)
    world, dreams = 3 * (encoder + memory + posterior + prior + decoder + heads), 0
    if behavior is not None:
        H = behavior.horizon
        actor = head(3, action_distributions.width(model.actions))
        critic = head(3, distributions.BINS)
        dreams = H * (memory + prior) + (H + 1) * actor
        dreams += (H + 1) * (heads + critic) + 3 * H * actor + 3 * (H + 1) * critic
        dreams += 4 * critic  # on replayed steps
        dreams *= behavior.last or length
    return float(2 * batch * np.float64(length * world + dreams))
