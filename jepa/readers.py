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
from jepa import hf_config, meta_weights, weights
from jepa.model import SIZES, Encoder, Predictor, encoder_size

# Where only one encoder is given, both copies start from it; "target" then overwrites one.
PARTS = {
    "encoder": ("params/encoder", "target"),
    "target": ("target",),
    "predictor": ("params/predictor",),
    "opt": ("opt",),
}
# Attributes of Encoder and Predictor that a user sets in the config's section.
SETTABLE = {
    "encoder": ("patch", "positions"),
    "predictor": ("width", "depth", "heads", "hidden", "mask_tokens"),
}


def make_readers(encoder: Encoder, predictor: Predictor) -> dict:
    """Format -> core.method.Reader, for the networks of a config."""
    modules = {"encoder": encoder, "predictor": predictor}
    return {
        "export folder": read_export,
        "Hugging Face folder": functools.partial(read_published, modules=modules),
        "Meta file": functools.partial(read_meta, modules=modules),
    }


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
    *fields, params = weights.read_hf(folder)
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
    networks = modules["encoder"], modules["predictor"]
    found = {}
    for part, entry in entries.items():
        if part == "opt":
            moments = meta_weights.read_moments(path, content, networks)
            found[part] = Weights(moments, entry)
            continue
        network = "predictor" if part == "predictor" else "encoder"
        where = f"init_from {path}: {entry}"
        theirs = meta_weights.fields_of(network, content[entry], where)
        check_same_network(network, theirs, modules[network], path)
        params = meta_weights.read_part(path, network, content[entry], networks, entry)
        found[part] = Weights(params, entry)
    return found


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
