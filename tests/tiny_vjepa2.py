"""A tiny V-JEPA 2 model from a folder or from random numbers, for several tests."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from core.nn.positions import rope_tables
from core.nn.token_order import take
from core.nn.transformer import Transformer
from core.parallel.layouts import unbox
from jepa.nets.model import Encoder, Predictor, grid_of, patchify
from jepa.weights import hf_weights

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "vjepa2_tiny_hf"
USE = 1  # the mask token that transformers takes


def clip_of(pixel_values):
    """[B, T, C, H, W] -> [B, T, H, W, C]."""
    return jnp.moveaxis(jnp.asarray(pixel_values), 2, -1)


@functools.partial(jax.jit, static_argnames=("module", "grid"))
def encode(module, params, patches, index, *, grid):
    return module.apply({"params": params}, patches, index, grid=grid)


@functools.partial(jax.jit, static_argnames=("module", "grid", "use"))
def predict(module, params, *tokens, grid, use):
    return module.apply({"params": params}, *tokens, grid=grid, use=use)


class Model:
    """Encoder and predictor as functions of standardized clips [B, T, H, W, 3]."""

    def __init__(self, encoder, predictor, params):
        scan = {"remat": "block"}  # compiled in less time, and otherwise the same
        self.encoder = Encoder(**encoder | scan)
        self.predictor = Predictor(**predictor | scan)
        self.params = params

    def encode(self, clip, index=None):
        patches = patchify(clip, self.encoder.patch)
        patches = patches if index is None else take(patches, index)
        grid = grid_of(clip.shape, self.encoder.patch)
        return encode(self.encoder, self.params["encoder"], patches, index, grid=grid)

    def predict(self, context, context_index, target_index, grid):
        tokens, use = (
            (context, context_index, target_index),
            USE % self.predictor.mask_tokens,
        )
        params = self.params["predictor"]
        return predict(self.predictor, params, *tokens, grid=grid, use=(use,))

    def first_block(self, clip):
        """(tokens before the blocks, tokens after the first block)."""
        e, p = self.encoder, self.params["encoder"]
        x = patchify(clip, e.patch) @ p["embed"]["kernel"] + p["embed"]["bias"]
        grid = grid_of(clip.shape, e.patch)
        where = np.stack(np.unravel_index(np.arange(x.shape[1]), grid), -1)[None]
        rope = rope_tables(where, head_dim=e.width // e.heads, variant=e.positions)
        block = jax.tree.map(lambda w: w[:1], p["stack"]["blocks"])
        stack = Transformer(1, e.heads, e.hidden, e.eps)
        return x, stack.apply({"params": {"blocks": block}}, x, rope)


def write(folder, params, encoder, predictor, *, mask_token=None):
    """`write_hf` with some clip size, card and origin, which do not matter."""
    hf_weights.write_hf(
        folder, params, encoder=encoder, predictor=predictor, crop_size=48, frames=8,
        mask_token=mask_token, card="# A test\n", origin={"parent": "none"},
    )  # fmt: skip


def random_model(seed=0, **changes):
    """(encoder fields, predictor fields, params) with every value random."""
    common = {
        "depth": 3,
        "eps": 1e-6,
        "qkv_bias": True,
        "positions": "tiled",
        **changes,
    }
    encoder = {"width": 44, "heads": 2, "hidden": 98, "patch": (2, 16, 16), **common}
    predictor = {"width": 24, "heads": 1, "hidden": 72, "out": 44, "mask_tokens": 4}
    predictor |= common
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init(encoder, predictor))
    params = jax.tree.map(
        lambda s: rng.normal(0.0, 0.2, s.shape).astype(np.float32), shapes
    )
    return encoder, predictor, params


def init(encoder, predictor):
    """Unboxed params of both modules."""
    scan = {"remat": "block"}  # traced once for all blocks
    e, p = Encoder(**encoder | scan), Predictor(**predictor | scan)
    key, index, grid = jax.random.key(0), jnp.zeros((1, 1), jnp.int32), (4, 3, 3)
    patches = jnp.zeros((1, 1, 3 * e.patch[0] * e.patch[1] * e.patch[2]))
    features = jnp.zeros((1, 1, p.out))
    params = {
        "encoder": e.init(key, patches, index, grid=grid)["params"],
        "predictor": p.init(key, features, index, index, grid=grid, use=(0,))["params"],
    }
    return unbox(params)
