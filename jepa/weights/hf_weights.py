"""V-JEPA 2 weights in the Hugging Face transformers folder format: reading and writing.

A folder holds config.json, model.safetensors and video_preprocessor_config.json, as in
transformers 5.23. One table of rows ours <-> theirs serves both directions. Nothing in a
folder is executed. jepa/weights/meta_weights.py reads the same weights in Meta's own files.
"""

import collections
import contextlib
import math
import pathlib
import re
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from core.base.files import read_json, write_json
from core.export import artifacts
from jepa.nets.model import Encoder, Predictor
from jepa.weights import hf_config
from jepa.weights.hf_config import CHANNELS

TENSORS = "model.safetensors"
CLASSIFIER = "VJEPA2ForVideoClassification"

# Ours -> theirs, inside a block and around the blocks.
BLOCK = {
    "norm1": "norm1",
    "attention/query": "attention.query",
    "attention/key": "attention.key",
    "attention/value": "attention.value",
    "attention/out": "attention.proj",
    "norm2": "norm2",
    "mlp/up": "mlp.fc1",
    "mlp/down": "mlp.fc2",
}
AROUND = {
    "encoder/embed": "encoder.embeddings.patch_embeddings.proj",
    "encoder/norm": "encoder.layernorm",
    "predictor/embed": "predictor.embeddings.predictor_embeddings",
    "predictor/norm": "predictor.layernorm",
    "predictor/proj": "predictor.proj",
}
MASK_TOKENS = ("predictor/mask_tokens", "predictor.embeddings.mask_tokens")

# Theirs -> ours by rank: permute the axes, then flatten all but the last. Vectors stay,
# matrices [out, in] are transposed, mask tokens [n, 1, 1, P] lose their axes of length 1,
# and the patch convolution [D, C, t, h, w] becomes a matrix over patches (t, h, w, C).
AXES = {1: (0,), 2: (1, 0), 4: (0, 1, 2, 3), 5: (2, 3, 4, 1, 0)}


class Row(NamedTuple):
    """One tensor: our path, its layer in the stack if any, their name, their shape."""

    ours: str
    layer: int | None
    theirs: str
    shape: tuple[int, ...]


def table(encoder: Encoder, predictor: Predictor) -> list[Row]:
    """All tensors of a model, the layers of a stack in order."""
    D, P = encoder.width, predictor.width
    shapes = {
        "encoder/embed": (D, CHANNELS, *encoder.patch),
        "encoder/norm": (D,),
        "predictor/embed": (P, D),
        "predictor/norm": (P,),
        "predictor/proj": (D, P),
    }
    ours, theirs = MASK_TOKENS
    rows = [Row(ours, None, theirs, (predictor.mask_tokens, 1, 1, P))]
    for ours, theirs in AROUND.items():
        rows += pair(ours, None, theirs, shapes[ours])
    return rows + blocks("encoder", encoder) + blocks("predictor", predictor)


def pair(ours, layer, theirs, shape, bias=True) -> list[Row]:
    """The weight of a norm or a linear map, its bias beside it."""
    weight = "scale" if len(shape) == 1 else "kernel"
    rows = [Row(f"{ours}/{weight}", layer, f"{theirs}.weight", shape)]
    if bias:
        rows.append(Row(f"{ours}/bias", layer, f"{theirs}.bias", shape[:1]))
    return rows


def blocks(part: str, module) -> list[Row]:
    """The tensors of every block of the encoder or the predictor."""
    D, F = module.width, module.hidden
    shapes = {name: (D, D) for name in BLOCK}
    shapes |= {"norm1": (D,), "norm2": (D,), "mlp/up": (F, D), "mlp/down": (D, F)}
    optional = ("attention/query", "attention/key", "attention/value")
    rows = []
    for i in range(module.depth):
        for ours, theirs in BLOCK.items():
            bias = module.qkv_bias or ours not in optional
            where = f"{part}/stack/blocks/{ours}", i, f"{part}.layer.{i}.{theirs}"
            rows += pair(*where, shapes[ours], bias)
    return rows


def our_shape(shape) -> tuple[int, ...]:
    """The shape of one layer of ours for a tensor of theirs."""
    turned = [shape[axis] for axis in AXES[len(shape)]]
    return (math.prod(turned[:-1]), turned[-1]) if len(turned) > 1 else tuple(turned)


def to_ours(x):
    return x.transpose(AXES[x.ndim]).reshape(our_shape(x.shape))


def to_theirs(x, shape):
    axes = AXES[len(shape)]
    return x.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))


def read_hf(folder) -> tuple[dict, dict, dict]:
    """Read a folder: (Encoder fields, Predictor fields, float32 params of both).

    All mask tokens keep their slots; transformers predicts with number 1 % n. A predictor
    of depth 0 marks a folder that was published for its encoder alone. Pooler and
    classifier of a classification model are ignored. Raises ValueError naming the tensor
    or field that is missing, unknown or misshapen, or the file of an export of ours that is
    not what was written.
    """
    folder = pathlib.Path(folder)
    if not (folder / hf_config.CONFIG).is_file():
        raise ValueError(f"{folder} holds no config.json: it is no Hugging Face folder")
    if (folder / artifacts.PROVENANCE).is_file():  # folders of others have none
        artifacts.check_files(folder, (hf_config.CONFIG, TENSORS))
    config = read_json(folder / hf_config.CONFIG)
    encoder, predictor = hf_config.read(config)
    classifier = config.get("architectures") == [CLASSIFIER]
    prefix, ignored = (
        ("vjepa2.", ("pooler.", "classifier.")) if classifier else ("", ())
    )
    rows = table(Encoder(**encoder), Predictor(**predictor))
    shapes = our_shapes(rows)
    flat = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    with opened(folder / TENSORS) as file:
        found = {name for name in file.keys() if not name.startswith(ignored)}
        check_names({prefix + row.theirs for row in rows}, found, folder / TENSORS)
        for row in rows:
            x = to_ours(read_tensor(file, prefix + row.theirs, row.shape))
            place = slice(None) if row.layer is None else row.layer
            flat[row.ours][place] = x
    return encoder, predictor, artifacts.nest(flat)


@contextlib.contextmanager
def opened(path):
    """An open safetensors file; raises ValueError if it is absent or damaged."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; sharded weights are not read")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is no valid safetensors file: {error}") from None


def read_tensor(file, name, shape):
    """One tensor as float32; raises ValueError if its shape is not `shape`."""
    entry = file.get_slice(name)
    if tuple(entry.get_shape()) != shape:
        raise ValueError(
            f"tensor {name} has shape {entry.get_shape()}, not {list(shape)}"
        )
    if entry.get_dtype() not in ("F32", "BF16", "F16"):
        raise ValueError(
            f"tensor {name} is {entry.get_dtype()}; F32, BF16, F16 are read"
        )
    return file.get_tensor(name).astype(np.float32)


def check_names(wanted: set, found: set, where):
    """Raise ValueError for names that only one side has: the first, the others by group."""
    for names, words in (
        (wanted - found, "is missing"),
        (found - wanted, "is not part of the model its config describes"),
    ):
        if names:
            first, *others = sorted(names)
            more = f" ({len(others)} more: {count_groups(others)})" if others else ""
            raise ValueError(f"{where}: {first} {words}{more}")


def count_groups(names) -> str:
    """Names by block or layer, such as "blocks.1 12, norm 2"."""
    group = re.compile(r".*?\.\d+(?=\.)|.+(?=[./])|.+")
    counts = collections.Counter(group.match(name)[0] for name in names)
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def write_hf(
    folder, params: dict, *, encoder: dict, predictor: dict, crop_size: int,
    frames: int, mask_token: int | None, card: str, origin: dict,
):  # fmt: skip
    """Write a folder that transformers loads, then read it back and compare.

    Args:
      params: {"encoder": ..., "predictor": ...} without axis names. The encoder of
        published folders is the EMA target.
      encoder, predictor: fields of Encoder and Predictor.
      crop_size: rows and columns of a training clip; frames: its length.
      mask_token: number of the trained mask token, which is copied into every slot
        because transformers takes number 1 % n and Meta's trainer 0. None keeps the
        slots, as for weights from `read_hf`.
      card: text of README.md.
      origin: what `core.runs.run_folder.provenance` returns.

    Raises:
      ValueError: for fields that the format cannot express, and for wrong params.
    """
    folder = pathlib.Path(folder)
    modules = Encoder(**encoder), Predictor(**predictor)
    config = hf_config.make(*modules, crop_size=crop_size, frames=frames)
    rows = table(*modules)
    flat = {k: np.asarray(x, np.float32) for k, x in artifacts.flatten(params).items()}
    check_params(our_shapes(rows), flat)
    if mask_token is not None:
        flat[MASK_TOKENS[0]] = in_every_slot(flat[MASK_TOKENS[0]], mask_token)
    tensors = {}
    for row in rows:
        x = flat[row.ours] if row.layer is None else flat[row.ours][row.layer]
        tensors[row.theirs] = to_theirs(x, row.shape)
    artifacts.write_safetensors(folder, tensors, {"format": "pt"}, name=TENSORS)
    write_json(folder / hf_config.CONFIG, config)
    write_json(folder / hf_config.PREPROCESSOR, hf_config.preprocessor(crop_size))
    artifacts.finish(folder, card=card, origin=origin)
    artifacts.check_same(artifacts.nest(flat), read_hf(folder)[2], atol=0)


def our_shapes(rows: list[Row]) -> dict:
    """Shape of each of our arrays; the layers of a stack are its first axis."""
    layers = collections.Counter(row.ours for row in rows)
    return {
        row.ours: our_shape(row.shape) if row.layer is None
        else (layers[row.ours], *our_shape(row.shape))
        for row in rows
    }  # fmt: skip


def check_params(shapes: dict, flat: dict):
    """Raise ValueError for the first array that is missing, unknown or misshapen."""
    check_names(set(shapes), set(flat), "params")
    for name, shape in shapes.items():
        if flat[name].shape != shape:
            raise ValueError(
                f"params: {name} has shape {flat[name].shape}, not {shape}"
            )


def in_every_slot(tokens, use: int):
    """Mask tokens [n, P], all of them number `use` of the given ones."""
    if not 0 <= use < len(tokens):
        raise ValueError(
            f"mask_token is {use}, but there are {len(tokens)} mask tokens"
        )
    return np.tile(tokens[use], (len(tokens), 1))
