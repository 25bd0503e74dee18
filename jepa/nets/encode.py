"""The frozen encoder and predictor as pure functions, and baselines of the encoder."""

import jax
import jax.numpy as jnp
import numpy as np

from core.method import Frozen
from core.nn.layers import normalize
from core.parallel.layouts import unbox
from core.section import Section
from jepa.nets.dense_model import DenseEncoder
from jepa.nets.model import Encoder, Predictor, grid_of, patchify, standardize
from jepa.weights.classifier import published_classifier

CELL = 4  # rows and columns of the cells that "pixels" are averaged over


def make_encode(encoder: Encoder | DenseEncoder):
    """(params, {"video": [B, T, H, W, 3]}) -> float32 features [B, N, D].

    uint8 video is standardized here; float video is taken to be standardized already. The
    token grid is that of the clip itself.
    """

    def encode(params, inputs):
        video = inputs["video"]
        patch = encoder.patch_of(video.shape[1])
        patches = patchify(video, patch)
        if video.dtype == jnp.uint8:
            patches = standardize(patches)
        grid = grid_of(video.shape, patch)
        return encoder.apply({"params": params}, patches, grid=grid).astype(jnp.float32)

    return encode


def encode_images(encoder: Encoder | DenseEncoder, params, images) -> jax.Array:
    """Features float32 [..., V N, D] of uint8 images [..., V, H, W, 3] of V views.

    Each image fills all frames of a tubelet; features are normalized without scale.
    """
    *lead, V, H, W, C = images.shape
    clips = jnp.repeat(images.reshape(-1, 1, H, W, C), encoder.patch[0], axis=1)
    x = make_encode(encoder)(params, {"video": clips})
    return normalize(x, eps=1e-5).reshape(*lead, -1, x.shape[-1])


def tokens_of(encoder, grid, params, video):
    """Features [B, N, D] of uint8 clips [B, T, H, W, 3]; raw tubelets if `params` is None."""
    patches = standardize(patchify(video, encoder.patch))
    if params is None:
        return patches
    return encoder.apply({"params": params}, patches, grid=grid)


def make_levels(encoder: Encoder, levels: tuple[int, ...]):
    """(params, {"video"}) -> {"features": as of `make_encode`, "block2": of block 2, ...}.

    The features of a block, counted from 0, pass through the final norm, as Meta's
    `out_layers` do. XLA computes the blocks that several of them share once.

    Raises ValueError for blocks that the encoder does not have.
    """
    if beyond := [level for level in levels if not 0 <= level < encoder.depth]:
        raise ValueError(
            f"--levels names block {beyond[0]}; expected 0 to {encoder.depth - 1}"
        )

    def encode(params, inputs):
        found = {"features": make_encode(encoder)(params, inputs)}
        for level in levels:
            first = jax.tree.map(lambda w, n=level + 1: w[:n], params["stack"])
            part = make_encode(encoder.clone(depth=level + 1))
            found[f"block{level}"] = part({**params, "stack": first}, inputs)
        return found

    return encode


def make_guess(predictor: Predictor, *, grid, use: int):
    """(params, {"features": [B, N, D], "visible": bool [B, N]}) -> predictions [B, N, D].

    Of the features of hidden tokens; rows of visible ones mean nothing. use: number of the
    mask token.
    """

    def guess(params, inputs):
        features, visible = inputs["features"], inputs["visible"]
        index = jnp.broadcast_to(jnp.arange(features.shape[1]), visible.shape)
        return predictor.apply(
            {"params": params},
            features,
            index,
            index,
            grid=grid,
            use=(use,),
            context_valid=visible,
            target_valid=~visible,
        ).astype(jnp.float32)

    return guess


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


def make_frozen(
    encoder: Encoder | DenseEncoder, init, *, seed: int, data: Section
) -> Frozen:
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
        still=lambda params, images: encode_images(encoder, params, images[:, None]),
    )
