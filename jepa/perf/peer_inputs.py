"""Inputs of one training step for another program, by method.

Each function of INPUTS returns (batch of both programs, other arrays of the peer, settings).
Masks are replaced by random cells without padding. Colors of views, directions of SIGReg,
weights of visible tokens and normalized actions are those of our first step. The peer uses
the same ones in every step.
"""

import jax
import numpy as np

from core.data.clips import LocalViews
from core.section import Section
from jepa.inputs import masks
from jepa.inputs.color_jitter import ViewJitter, draw_view_factors
from jepa.inputs.image_masks import ImageMasker
from jepa.levjepa import JITTER, SLICES, local_grid
from jepa.losses.dense import IMAGE
from jepa.losses.sigreg import draw_directions
from jepa.nets import networks
from jepa.nets.image_model import make_image_networks
from jepa.nets.model import encoder_size, positional
from jepa.nets.view_model import ViewEncoder
from jepa.worlds.clip_statistics import normalized


def simplify(config) -> None:
    """Turn off what the peers lack, in place."""
    if "colour" in config and "hue" not in config.colour:
        config.colour = {name: 0.0 for name in config.colour}
    if "planar" in config.data:
        config.data.planar = False
    if config.method == "jepa.pretrain":
        config.encoder.positions = "tiled"
        config.objective.sigreg = config.objective.vicreg = config.objective.motion = (
            0.0
        )
    if config.method == "jepa.dense":  # all of the context loss from the first step on
        config.objective.context.start = config.objective.context.full = 0.0
    if config.method == "jepa.levjepa" and config.encoder.causal:
        raise ValueError("encoder.causal is True; the peer has False alone")
    if config.method == "jepa.lewm":
        if config.encoder.kind != "conv":
            raise ValueError(
                f"encoder.kind is {config.encoder.kind!r}; the peer has 'conv'"
            )
        config.predictor.dropout = 0.0
        config.objective.variance = config.objective.covariance = 0.0


def masked_networks(config: Section):
    """(encoder, predictor) of V-JEPA."""
    return networks.make_networks(
        dtype="float32", encoder=config["encoder"], predictor=config["predictor"]
    )


def pretrain_inputs(config: Section, state, batch):
    encoder, predictor = masked_networks(config)
    grid = grid_of(config, encoder)
    chosen, sizes = random_cells(config["masks"]["patterns"], grid, len(batch["video"]))
    given, settings = shared(encoder, predictor, grid)
    batch = {"video": batch["video"], **chosen}
    return batch, given | batch, settings | {"sizes": sizes}


def dense_inputs(config: Section, state, batch):
    encoder, predictor = networks.make_dense_networks(
        dtype="float32", encoder=config["encoder"], predictor=config["predictor"]
    )
    clips, objective, B = (
        grid_of(config, encoder),
        config["objective"],
        len(batch["video"]),
    )
    batch, given = {"video": batch["video"]}, {}
    settings = {
        "levels": list(range(encoder.depth))[-encoder.levels :],
        "image_share": objective["image_share"],
        "weight": objective["context"]["weight"],
        f"{IMAGE}weight": objective["context"]["image_weight"],
    }
    kinds = ("", clips, "patterns"), (IMAGE, (1, *clips[1:]), "image_patterns")
    for prefix, grid, name in kinds:
        chosen, sizes = random_cells(config["masks"][name], grid, B)
        found, more = shared(encoder, predictor, grid)
        weights = context_weights(
            chosen, sizes, grid, distance=objective["context"]["distance"]
        )
        batch |= {f"{prefix}{k}": x for k, x in chosen.items()}
        given |= {f"{prefix}{k}": x for k, x in found.items()}
        given[f"{prefix}context_weight"] = weights
        settings = more | settings | {f"{prefix}sizes": sizes}
    return batch, given | batch, settings


def levjepa_inputs(config: Section, state, batch):
    size = encoder_size(config["encoder"]["size"])
    encoder = config["encoder"].without("size").into(ViewEncoder, **size)
    local = config["views"].without("keep").into(LocalViews)
    grids = {
        "global": grid_of(config, encoder),
        "local": local_grid(encoder.patch, config["data"]["frames"], local),
    }
    given = {
        f"{name}_{k}": x
        for name, grid in grids.items()
        for k, x in tables(encoder, grid).items()
    }
    key = jax.random.fold_in(jax.random.key(config["seed"]), 0)
    given["colour"] = draw_view_factors(
        config["colour"].into(ViewJitter),
        batch["local_patches"].shape[:2],
        jax.random.fold_in(key, JITTER),
    )
    objective = config["objective"]
    given["directions"] = draw_directions(
        jax.random.fold_in(key, SLICES), config["projector"]["out"], objective["slices"]
    )
    settings = {
        "encoder_heads": encoder.heads,
        "sigreg_weight": objective["sigreg_weight"],
    }
    return batch, given | batch, settings


def image_inputs(config: Section, state, batch):
    encoder, predictor = make_image_networks(
        dtype="float32", encoder=config["encoder"], predictor=config["predictor"]
    )
    grid = (1, *grid_of(config, encoder)[1:])
    masker = config["masks"].into(ImageMasker, grid=grid, batch=0, seed=0)
    context, target, blocks = masker.context, masker.target, masker.blocks
    rng, B = np.random.default_rng(0), len(batch["video"])
    order = rng.permuted(np.tile(np.arange(np.prod(grid)), (B, 1)), axis=1)
    seen, rest = np.sort(order[:, :context], 1), order[:, context:]
    hidden = [np.sort(rng.permuted(rest, axis=1)[:, :target], 1) for _ in range(blocks)]
    chosen = {"context": [seen] * blocks, "target": hidden}
    chosen = {k: np.concatenate(x, 1).astype(np.int32) for k, x in chosen.items()}
    chosen |= {f"{k}_valid": np.ones(x.shape, bool) for k, x in list(chosen.items())}
    given, settings = shared(encoder, predictor, grid)
    sizes = {"context": [context] * blocks, "target": [target] * blocks}
    batch = {"video": batch["video"], **chosen}
    return batch, given | batch, settings | {"sizes": sizes}


def lewm_inputs(config: Section, state, batch):
    objective, predictor = config["objective"], config["predictor"]
    key = jax.random.fold_in(jax.random.key(config["seed"]), 0)
    width = config["latent"]["width"]
    given = {
        "directions": draw_directions(key, width, objective["slices"]),
        "image": batch["image"],
        "action": normalized(batch["action"], state.actions, config["clip"]["skip"]),
    }
    settings = {
        "patch": config["encoder"]["patch"],
        "depth": predictor["depth"],
        "predictor_heads": predictor["heads"],
        "knots": objective["knots"],
        "sigreg_weight": objective["sigreg_weight"],
    }
    return batch, given, settings


INPUTS = {
    "jepa.pretrain": pretrain_inputs,
    "jepa.dense": dense_inputs,
    "jepa.levjepa": levjepa_inputs,
    "jepa.image": image_inputs,
    "jepa.lewm": lewm_inputs,
}


def grid_of(config: Section, encoder) -> tuple[int, int, int]:
    data = config["data"]
    return networks.token_grid(encoder.patch, frames=data["frames"], size=data["size"])


def shared(encoder, predictor, grid):
    """(tables of positions of both networks, their settings)."""
    pair = {"encoder": encoder, "predictor": predictor}
    given = {
        f"{name}_{k}": x
        for name, network in pair.items()
        for k, x in tables(network, grid).items()
    }
    settings = {f"{name}_heads": network.heads for name, network in pair.items()}
    return given, settings | {"patch": list(encoder.patch)}


def tables(network, grid) -> dict:
    """Positions of all tokens: rotary "cos" and "sin" [N, d], or "added" [N, width]."""
    added, rope = positional(
        np.arange(np.prod(grid))[None], grid, positions=network.positions,
        width=network.width, heads=network.heads,
        rope_grid=getattr(network, "rope_grid", 0),
    )  # fmt: skip
    if added is not None:
        return {"added": added[0]}
    return {
        k: x[0].reshape(len(x[0]), -1)
        for k, x in zip(("cos", "sin"), rope, strict=True)
    }


def random_cells(patterns: Section, grid, B: int):
    """(masks as of Masker without padding, {"context": tokens per pattern, "target": too}).

    Raises ValueError where context and target of a pattern do not fit.
    """
    rng, cells = np.random.default_rng(0), grid[1] * grid[2]
    found, sizes = {"context": [], "target": []}, {"context": [], "target": []}
    for pattern in masks.make_patterns(patterns):
        order = rng.permuted(np.tile(np.arange(cells), (B, 1)), axis=1)
        if pattern.context + pattern.target > cells:
            raise ValueError(
                f"masks.patterns: a context of {pattern.context} and a target of "
                f"{pattern.target} cells do not fit into {cells} without padding"
            )
        ends = {
            "context": order[:, : pattern.context],
            "target": order[:, -pattern.target :],
        }
        for name, cell in ends.items():
            index = np.arange(grid[0])[:, None] * cells + np.sort(cell, 1)[:, None]
            found[name].append(index.reshape(B, -1).astype(np.int32))
            sizes[name].append(found[name][-1].shape[1])
    arrays = {name: np.concatenate(x, 1) for name, x in found.items()}
    valid = {f"{name}_valid": np.ones(x.shape, bool) for name, x in arrays.items()}
    return arrays | valid, sizes


def context_weights(chosen, sizes, grid, *, distance: bool):
    """Weights of visible tokens of V-JEPA 2.1, float32 [B, C], as a plain loop.

    1 / sqrt(distance to the nearest hidden token of the pattern) over the tokens of it.
    """
    where = np.stack(np.unravel_index(np.arange(np.prod(grid)), grid), -1)
    ends = {name: np.cumsum(sizes[name])[:-1] for name in sizes}
    rows = []
    pairs = [np.split(chosen[name], ends[name], 1) for name in ("context", "target")]
    for context, target in zip(*pairs, strict=True):
        gap = where[context][:, :, None] - where[target][:, None]
        near = np.sqrt(np.square(gap).sum(-1).min(-1))
        weight = 1 / np.sqrt(near) if distance else np.ones(near.shape)
        rows.append(weight / context.shape[1])
    return np.concatenate(rows, 1).astype(np.float32)
