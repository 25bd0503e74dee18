"""Weights that pretraining can start from, besides checkpoints: exports, Hugging Face.

Frames, resolution and batch may differ from those of the other run: rotary positions
have no weights. All else that a network computes with must be the same.
"""

import functools
import pathlib

from core.base.files import read_json
from core.export import artifacts
from jepa import hf_config, weights
from jepa.model import SIZES, Encoder, Predictor, encoder_size

# Published encoders are the EMA target, so both copies of the encoder start from one.
PARTS = {"encoder": ("params/encoder", "target"), "predictor": ("params/predictor",)}
# Attributes of Encoder and Predictor that a user sets in the config's section.
SETTABLE = {
    "encoder": ("patch", "positions"),
    "predictor": ("width", "depth", "heads", "hidden", "mask_tokens"),
}


def make_readers(encoder: Encoder, predictor: Predictor) -> dict:
    """Format -> core.method.Reader, for the networks of a config."""
    modules = {"encoder": encoder, "predictor": predictor}
    return {
        "export": read_export,
        "Hugging Face": functools.partial(read_published, modules=modules),
    }


def read_export(folder: pathlib.Path, parts: tuple[str, ...]) -> dict | None:
    """The encoder of a safetensors or stablehlo export, the EMA target of its run."""
    params = artifacts.read_params(folder)
    return None if params is None else {"encoder": params}


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
    return {name: params[name] for name in held}


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
    sizes = [name for name in SIZES if encoder_size(name).items() <= theirs.items()]
    if (
        part == "encoder"
        and sizes
        and not encoder_size(sizes[0]).items() <= ours.items()
    ):
        flags.insert(0, f"--config.encoder.size={sizes[0]}")
    hints = [" ".join(flags)] if flags else []
    hints += ["--config.init_parts=encoder"] if part == "predictor" else []
    hint = f"; use {' or '.join(hints)}" if hints else ""
    raise ValueError(f"init_from {folder}: {found}{hint}")
