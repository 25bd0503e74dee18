"""From config sections to V-JEPA's networks and the token grid of a clip."""

import jax.numpy as jnp

from core.section import Section
from jepa.nets.dense_model import DenseEncoder, DensePredictor
from jepa.nets.model import Encoder, Predictor, encoder_size


def make_networks(
    *, dtype: str, encoder: Section, predictor: Section
) -> tuple[Encoder, Predictor]:
    """Encoder and predictor from the config sections of these names.

    The predictor shares positions, initialization, recomputation, kernel and dtype with
    the encoder. Raises ValueError for fields that the networks do not have.
    """
    first = encoder.without("size").into(
        Encoder, **encoder_size(encoder["size"]), dtype=jnp.dtype(dtype)
    )
    second = predictor.into(
        Predictor,
        out=first.width,
        positions=first.positions,
        rescale=first.rescale,
        remat=first.remat,
        attention=first.attention,
        dtype=first.dtype,
    )
    return first, second


def make_dense_networks(
    *, dtype: str, encoder: Section, predictor: Section
) -> tuple[DenseEncoder, DensePredictor]:
    """`make_networks` for V-JEPA 2.1, whose predictor shares `rope_grid` too.

    `predictor.out` is the width of predicted levels; 0 is that of the encoder.
    """
    first = encoder.without("size").into(
        DenseEncoder, **encoder_size(encoder["size"]), dtype=jnp.dtype(dtype)
    )
    shared = ("positions", "rope_grid", "rescale", "remat", "attention", "dtype")
    second = predictor.without("out").into(
        DensePredictor,
        features=first.width,
        out=predictor["out"] or first.width,
        **{name: getattr(first, name) for name in shared},
    )
    return first, second


def token_grid(patch, *, frames, size) -> tuple[int, int, int]:
    """Tubelets along time, row and column of a clip of `frames` of `size` x `size` pixels.

    Raises ValueError if the clip does not divide into tubelets of `patch`.
    """
    for field, length, part in (("frames", frames, patch[0]), ("size", size, patch[1])):
        if length % part or length < part:
            low = max(part, length // part * part)
            raise ValueError(
                f"data.{field} {length} does not divide into patches of {part}; "
                f"use {low} or {low + part}"
            )
    return frames // patch[0], size // patch[1], size // patch[2]


def mask_tokens_of(patterns: int, *, per_pattern: bool, available: int):
    """Number of the predictor's mask token for each mask pattern.

    Number 0 for all, or one each if `per_pattern`. Raises ValueError if the predictor has
    fewer than that.
    """
    use = tuple(i if per_pattern else 0 for i in range(patterns))
    if max(use) >= available:
        raise ValueError(
            f"predictor.mask_tokens is {available} but {patterns} mask patterns want one "
            "each"
        )
    return use
