"""Tensors of Meta's files: one table per network, ours <-> theirs, used in both directions.

Source: the public checkpoints of V-JEPA 1, 2, 2.1 and 2-AC. A table has a row per array of
ours and layer; rows of query, key and value share one tensor of theirs.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from core.base.nested import nest
from core.export import artifacts
from jepa.nets.dense_model import IMAGE, VIDEO, DenseEncoder, DensePredictor
from jepa.nets.model import SIZES, Encoder, Predictor, encoder_size
from jepa.weights import hf_weights
from jepa.worlds.ac_model import ActionPredictor

CHANNELS = 3
# Not read: tables of positions, computed here and stale in some files of rotary models, and
# a map of camera poses that the released program of V-JEPA 2-AC does not use.
IGNORED = (
    "pos_embed", "predictor_pos_embed", "extrinsics_encoder.weight",
    "extrinsics_encoder.bias",
)  # fmt: skip
MASK_TOKEN = "mask_tokens."
QKV = ("attention/query", "attention/key", "attention/value")
ROBOT = "droid"  # the embodiment that the released V-JEPA 2-AC was trained on
# A tensor that only this network has, by the part it belongs to -> the network.
SIGNS = {
    "norms_block.0.weight": DenseEncoder,
    "predictor_proj_context.weight": DensePredictor,
    "action_encoder.weight": ActionPredictor,
}
METHODS = {
    Encoder: "V-JEPA 1 or 2",
    Predictor: "V-JEPA 1 or 2",
    DenseEncoder: "V-JEPA 2.1, whose levels each have a norm",
    DensePredictor: "V-JEPA 2.1, which predicts the context too",
    ActionPredictor: "V-JEPA 2-AC, which is conditioned on actions",
}


class Row(NamedTuple):
    """An array of ours and where its values are in a file.

    ours: path in the params of the network. layer: on its first axis, if it is stacked.
    theirs, shape: name and shape of a tensor, the shape being that of a third where `third`
    is 0, 1 or 2.
    """

    ours: str
    layer: int | None
    theirs: str
    shape: tuple[int, ...]
    third: int | None = None


def pair(ours, theirs, shape, layer=None, third=None, bias=True) -> list[Row]:
    """The weight of a norm or a linear map, and its bias."""
    weight = "scale" if len(shape) == 1 else "kernel"
    rows = [Row(f"{ours}/{weight}", layer, f"{theirs}.weight", shape, third)]
    if bias:
        rows.append(Row(f"{ours}/bias", layer, f"{theirs}.bias", shape[:1], third))
    return rows


def vectors(ours: str, names: Iterable[str], width: int) -> list[Row]:
    """Rows of one array of ours, each of them a tensor [1, 1, width]."""
    return [Row(ours, i, name, (1, 1, width)) for i, name in enumerate(names)]


def mask_tokens(module) -> list[Row]:
    names = [f"{MASK_TOKEN}{i}" for i in range(module.mask_tokens)]
    return vectors("mask_tokens", names, module.width)


def modality(module) -> list[Row]:
    names = {IMAGE: "img_mod_embed", VIDEO: "video_mod_embed"}
    return vectors("modality", [names[row] for row in sorted(names)], module.width)


def blocks(theirs: str, module) -> list[Row]:
    """All blocks of a network, in order; `theirs` is the name of their list."""
    D, F = module.width, module.hidden
    rows = []
    for i in range(module.depth):

        def add(ours, name, shape, at=i, **more):
            where = f"stack/blocks/{ours}", f"{theirs}.{at}.{name}"
            rows.extend(pair(*where, shape, layer=at, **more))

        add("norm1", "norm1", (D,))
        for third, ours in enumerate(QKV):
            add(ours, "attn.qkv", (D, D), third=third, bias=module.qkv_bias)
        add("attention/out", "attn.proj", (D, D))
        add("norm2", "norm2", (D,))
        add("mlp/up", "mlp.fc1", (F, D))
        add("mlp/down", "mlp.fc2", (D, F))
    return rows


def encoder_rows(m: Encoder) -> list[Row]:
    return [
        *pair("embed", "patch_embed.proj", (m.width, CHANNELS, *m.patch)),
        *pair("norm", "norm", (m.width,)),
        *blocks("blocks", m),
    ]


def predictor_rows(m: Predictor) -> list[Row]:
    return [
        *pair("embed", "predictor_embed", (m.width, m.out)),
        *mask_tokens(m),
        *pair("norm", "predictor_norm", (m.width,)),
        *pair("proj", "predictor_proj", (m.out, m.width)),
        *blocks("predictor_blocks", m),
    ]


def dense_encoder_rows(m: DenseEncoder) -> list[Row]:
    image = 1, *m.patch[1:]
    rows = [
        *pair("embed", "patch_embed.proj", (m.width, CHANNELS, *m.patch)),
        *pair("embed_image", "patch_embed_img.proj", (m.width, CHANNELS, *image)),
        *modality(m),
    ]
    for i in range(m.levels):
        rows += pair("norms", f"norms_block.{i}", (m.width,), layer=i)
    return rows + blocks("blocks", m)


def dense_predictor_rows(m: DensePredictor) -> list[Row]:
    embed, D, outputs = "predictor_embed", m.features, (m.levels * m.out, m.width)
    entry = pair("embed", embed, (m.width, D))
    if m.levels > 1:
        entry = pair("mix", f"{embed}.0", (D, m.levels * D))
        entry += pair("embed", f"{embed}.2", (m.width, D))
    return [
        *entry,
        *mask_tokens(m),
        *modality(m),
        *pair("norm", "predictor_norm", (m.width,)),
        *pair("proj", "predictor_proj", outputs),
        *pair("proj_context", "predictor_proj_context", outputs),
        *blocks("predictor_blocks", m),
    ]


def action_predictor_rows(m: ActionPredictor) -> list[Row]:
    if len(m.embodiments) != 1:
        raise ValueError(
            f"the predictor has {len(m.embodiments)} embodiments, but files of V-JEPA "
            "2-AC have one"
        )
    ((robot, action, state),) = m.embodiments
    return [
        *pair("embed", "predictor_embed", (m.width, m.out)),
        *pair(f"action_{robot}", "action_encoder", (m.width, action)),
        *pair(f"state_{robot}", "state_encoder", (m.width, state)),
        *pair("norm", "predictor_norm", (m.width,)),
        *pair("proj", "predictor_proj", (m.out, m.width)),
        *blocks("predictor_blocks", m),
    ]


ROWS: dict[type, Callable[[Any], list[Row]]] = {
    Encoder: encoder_rows,
    Predictor: predictor_rows,
    DenseEncoder: dense_encoder_rows,
    DensePredictor: dense_predictor_rows,
    ActionPredictor: action_predictor_rows,
}


def table(module) -> list[Row]:
    """All tensors of a network, the blocks in order."""
    return ROWS[type(module)](module)


def file_shape(row: Row) -> tuple[int, ...]:
    """The shape of the tensor in a file."""
    first = row.shape[0] if row.third is None else 3 * row.shape[0]
    return first, *row.shape[1:]


def to_ours(row: Row, tensor: np.ndarray) -> np.ndarray:
    """The array of ours, or one layer of it, from a tensor of theirs."""
    x = tensor if row.third is None else np.split(tensor, 3)[row.third]
    return x.reshape(-1) if x.ndim == 3 else hf_weights.to_ours(x)


def to_theirs(params: Mapping, module) -> dict[str, np.ndarray]:
    """The state dict of a network, without prefixes, from its nested params."""
    flat = artifacts.flatten(dict(params))
    parts = collections.defaultdict(list)
    for row in table(module):
        x = np.asarray(flat[row.ours])
        x = x if row.layer is None else x[row.layer]
        x = (
            x.reshape(row.shape)
            if len(row.shape) == 3
            else hf_weights.to_theirs(x, row.shape)
        )
        parts[row.theirs].append(x)
    return {name: np.concatenate(thirds) for name, thirds in parts.items()}


def gather(rows: Iterable[Row], read: Callable[[Row], np.ndarray]) -> dict:
    """Nested float32 params; `read` gives the whole tensor of a row."""
    found, stacked = collections.defaultdict(list), set()
    for row in rows:
        found[row.ours].append(to_ours(row, read(row).astype(np.float32)))
        if row.layer is not None:
            stacked.add(row.ours)
    return nest({k: np.stack(x) if k in stacked else x[0] for k, x in found.items()})


def kind_of(part: str, names: Iterable[str]) -> type:
    """The class of the "encoder" or "predictor" whose tensors have these names."""
    signs = (kind for name, kind in SIGNS.items() if name in names)
    return next(signs, Encoder if part == "encoder" else Predictor)


def fields_of(kind: type, shapes: Mapping[str, tuple], where: str) -> dict:
    """The fields of a network of class `kind` that follow from the shapes of its tensors.

    Heads are those of the published size of this width, depth and hidden width, if any.

    Args:
      shapes: by name, without prefixes. where: what they are, for errors.

    Raises ValueError if a tensor is missing that tells the sizes.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise ValueError(f"{where}: {name} is missing")
        return shapes[name]

    encoder = kind in (Encoder, DenseEncoder)
    stack = "blocks" if encoder else "predictor_blocks"
    patch = shape("patch_embed.proj.weight")[2:] if encoder else None
    hidden, width = shape(f"{stack}.0.mlp.fc1.weight")
    numbers = {int(n.split(".")[1]) for n in shapes if n.startswith(f"{stack}.")}
    fields = {
        "width": width,
        "depth": 1 + max(numbers),
        "hidden": hidden,
        "qkv_bias": f"{stack}.0.attn.qkv.bias" in shapes,
    }
    if encoder:
        fields |= {"patch": tuple(patch), **heads_of(fields)}
        levels = count(shapes, "norms_block.", ".weight")
        return fields | ({"levels": levels} if kind is DenseEncoder else {})
    if kind is ActionPredictor:
        widths = (shape(f"{name}_encoder.weight")[1] for name in ("action", "state"))
        fields["embodiments"] = ((ROBOT, *widths),)
        return fields | {"out": shape("predictor_embed.weight")[1]}
    fields["mask_tokens"] = count(shapes, MASK_TOKEN)
    if kind is Predictor:
        return fields | {"out": shape("predictor_embed.weight")[1]}
    features, levels = shapes.get("predictor_embed.0.weight", (0, 0))
    levels = levels // features if features else 1
    features = features or shape("predictor_embed.weight")[1]
    out = shape("predictor_proj.weight")[0] // levels
    return fields | {"features": features, "levels": levels, "out": out}


def heads_of(fields: Mapping) -> dict:
    """{"heads": number} of the published encoder of these sizes, or {}."""
    for size in map(encoder_size, SIZES):
        heads = size.pop("heads")
        if size.items() <= fields.items():
            return {"heads": heads}
    return {}


def count(names: Iterable[str], start: str, end: str = "") -> int:
    return sum(name.startswith(start) and name.endswith(end) for name in names)


def sign_of(kind: type, names: Iterable[str]) -> str:
    """The tensor that tells a network of this class from others; "" if there is none."""
    signs = (name for name, of in SIGNS.items() if of is kind and name in names)
    return next(signs, "")
