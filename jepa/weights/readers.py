"""Weights that pretraining can start from, besides checkpoints: exports, published files.

Frames, resolution and batch may differ from those of the other run: rotary positions
have no weights. All else that a network computes with must be the same.
"""

import functools
import pathlib

from core.base.files import read_json
from core.base.torch_file import is_torch_file
from core.export import artifacts
from core.method import Weights
from jepa.nets.dense_model import DenseEncoder
from jepa.nets.model import SIZES, Encoder, encoder_size
from jepa.weights import hf_config, hf_weights, meta_names, meta_weights
from jepa.worlds.ac_model import ActionPredictor

# Where only one encoder is given, both copies start from it; "target" then overwrites one.
PARTS = {
    "encoder": ("params/encoder", "target"),
    "target": ("target",),
    "predictor": ("params/predictor",),
    "opt": ("opt",),
}
# Attributes of the networks that a user sets in the config's section.
SETTABLE = {
    "encoder": ("patch", "positions", "levels"),
    "predictor": ("width", "depth", "heads", "hidden", "mask_tokens", "levels", "out"),
}
# Version and sizes of the presets in configs/jepa.py, for hints.
PRESETS = {Encoder: ("v2", "LHgG"), DenseEncoder: ("v2_1", "BLgG")}


def make_readers(encoder, predictor) -> dict:
    """Format -> core.method.Reader, for the networks of a config.

    There is no Hugging Face folder for a DenseEncoder: transformers has no such model.
    """
    modules = {"encoder": encoder, "predictor": predictor}
    published = functools.partial(read_published, modules=modules)
    folder = {"Hugging Face folder": published} if isinstance(encoder, Encoder) else {}
    meta = functools.partial(read_meta, modules=modules)
    return {"export folder": read_export, **folder, "Meta file": meta}


def read_export(folder: pathlib.Path, parts: tuple[str, ...]) -> dict | None:
    """The encoder of a safetensors or stablehlo export, and the predictor if it is there."""
    params = artifacts.read_params(folder)
    if params is None:
        return None
    both = params if params.keys() == {"encoder", "predictor"} else {"encoder": params}
    return {name: Weights(part) for name, part in both.items()}


def read_published(
    folder: pathlib.Path, parts: tuple[str, ...], *, modules: dict
) -> dict | None:
    """Encoder and predictor of a Hugging Face VJEPA2 folder as float32 params.

    The predictor is absent where the folder was published for its encoder alone. Mask
    tokens keep their slots: training goes on with those that the config uses, number 0
    unless objective.mask_token_per_pattern is set, as in Meta's trainer.

    Raises:
      ValueError: naming the fields in which the networks differ, or a damaged tensor.
    """
    path = folder / hf_config.CONFIG
    if not path.is_file() or "model_type" not in read_json(path):
        return None
    *fields, params = hf_weights.read_hf(folder)
    theirs = dict(zip(("encoder", "predictor"), fields, strict=True))
    held = [name for name in theirs if theirs[name]["depth"]]
    wanted = [name for name in held if name in parts or not parts]
    for name in wanted:
        check_same_network(name, theirs[name], modules[name], folder)
    return {name: Weights(params[name]) for name in held}


def read_meta(path: pathlib.Path, parts: tuple[str, ...], *, modules: dict):
    """Encoder, target, predictor and moments of Meta's .pt file, or those named in `parts`.

    "encoder" alone is the file's target encoder, the one that Meta evaluates; beside
    "target", or where all is taken, it is the encoder that was trained.

    Raises:
      ValueError: naming the fields in which the networks differ, a class that is no
        tensor, or a missing, unknown, misshapen or damaged tensor.
    """
    if not is_torch_file(path):
        return None
    content = meta_weights.read_file(path)
    entries = meta_weights.entries_of(content, parts)
    found = {}
    for part, entry in entries.items():
        if part == "opt":
            found[part] = Weights(
                meta_weights.read_moments(path, content, modules), entry
            )
            continue
        network = "predictor" if part == "predictor" else "encoder"
        where = f"init_from {path}: {entry}"
        shapes = {name: tensor.shape for name, tensor in content[entry].items()}
        kind, module = meta_names.kind_of(network, shapes), modules[network]
        if kind is ActionPredictor is not type(module) and "encoder" in parts:
            continue  # of another method, beside an encoder of V-JEPA 2
        check_kind(kind, module, shapes, where)
        theirs = meta_names.fields_of(kind, shapes, where)
        check_same_network(network, theirs, module, path)
        params = meta_weights.read_part(path, content[entry], module, entry)
        found[part] = Weights(params, entry)
    return found


def check_kind(kind: type, module, shapes: dict, where: str) -> None:
    """Raise ValueError if a file's network, of class `kind`, is not that of the config.

    shapes: of the file's tensors by name.
    """
    if kind is type(module):
        return
    what, ours = meta_names.METHODS[kind], meta_names.METHODS[type(module)]
    sign = meta_names.sign_of(kind, shapes)
    what = f"{sign} belongs to {what}" if sign else f"the weights are those of {what}"
    hint = "--config.init_parts=encoder"
    if kind in PRESETS:
        version, sizes = PRESETS[kind]
        width = shapes.get("patch_embed.proj.weight", (0,))[0]
        size = next((x for x in sizes if SIZES[x][0] == width), sizes[-1])
        letter = size if size in "gG" else size.lower()
        hint = f"a config such as configs/jepa.py:{version}_{letter}"
    raise ValueError(f"{where}: {what}; the config's network is of {ours}; use {hint}")


def agrees(a: dict, b: dict) -> bool:
    """Whether the fields that both have are equal."""
    return all(a[name] == b[name] for name in a.keys() & b.keys())


def check_same_network(part: str, theirs: dict, module, folder: pathlib.Path) -> None:
    """Raise ValueError with every field of a network that differs from the folder's."""
    ours = {name: getattr(module, name) for name in theirs}
    differ = [name for name in theirs if theirs[name] != ours[name]]
    if not differ:
        return
    found = "; ".join(
        f"{part}.{name} is {theirs[name]} there, expected {ours[name]}"
        for name in differ
    )
    flags = [
        f"--config.{part}.{name}={theirs[name]}"
        for name in differ
        if name in SETTABLE[part]
    ]
    sizes = [name for name in SIZES if agrees(encoder_size(name), theirs)]
    if part == "encoder" and sizes and not agrees(encoder_size(sizes[0]), ours):
        flags.insert(0, f"--config.encoder.size={sizes[0]}")
    hints = [" ".join(flags)] if flags else []
    hints += ["--config.init_parts=encoder"] if part == "predictor" else []
    hint = f"; use {' or '.join(hints)}" if hints else ""
    raise ValueError(f"init_from {folder}: {found}{hint}")
