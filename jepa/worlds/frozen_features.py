"""Features of a frozen encoder: images to normalized patches, and where weights come from."""

import jax
import jax.numpy as jnp

from core.section import Section
from jepa.nets.model import Encoder, encoder_size
from jepa.nets.networks import token_grid
from jepa.perf import flops

# Places in the state of a method with a frozen encoder, by part of config.init_parts.
PARTS = {
    "encoder": ("encoder",),
    "predictor": ("params/predictor",),
    "opt": ("opt",),
}
FOUND_IN = {"encoder": "target"}  # of a run of jepa.pretrain


def make_encoder(config: Section) -> tuple[Encoder, tuple[int, int]]:
    """(the encoder of a config, rows and columns of patches of a view).

    Raises ValueError for pictures that do not divide into patches.
    """
    encoder = (
        config["encoder"]
        .without("size")
        .into(
            Encoder,
            **encoder_size(config["encoder"]["size"]),
            dtype=jnp.dtype(config["dtype"]),
        )
    )
    size = config["data"]["size"]
    _, rows, columns = token_grid(encoder.patch, frames=encoder.patch[0], size=size)
    return encoder, (rows, columns)


def init_encoder(encoder: Encoder, grid: tuple[int, int], key) -> dict:
    """Boxed random weights, until others are placed. grid: as of `make_encoder`."""
    t, *sides = encoder.patch
    pixels = jnp.zeros((1, 1, 3 * t * sides[0] * sides[1]))
    where = jnp.zeros((1, 1), jnp.int32)
    return encoder.init(key, pixels, where, grid=(1, *grid))["params"]


def features_of(networks, params, batch) -> jax.Array:
    """Features float32 [B, T, V N, D] of a batch of clips: those that it has, or encoded.

    networks: a FeatureModel. params: of the encoder.
    """
    if "features" in batch:
        return batch["features"].astype(jnp.float32)
    return networks.encode(params, batch["image"])


def check_encoder(config: Section) -> None:
    """Raise ValueError if training would begin with a random encoder that is not meant."""
    if not config["init_from"] and not config["random_encoder"]:
        raise ValueError(
            f"init_from is empty, but {config['method']} does not train its encoder; name a "
            "run of jepa.pretrain, an export, a Hugging Face folder or Meta's file, or set "
            "--config.random_encoder=True --config.init_parts="
        )


def encoder_flops(encoder: Encoder, grid: tuple[int, int]) -> float:
    """Floating point operations of the features of one image of one view."""
    t, *sides = encoder.patch
    cells = grid[0] * grid[1]
    return flops.forward(
        tokens=cells,
        segments=(cells,),
        width=encoder.width,
        depth=encoder.depth,
        hidden=encoder.hidden,
        inputs=3 * t * sides[0] * sides[1],
    )
