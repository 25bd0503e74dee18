"""Attentive classifiers published for V-JEPA 2: Hugging Face folders and Meta's probe files."""

import pathlib
from collections.abc import Mapping

import numpy as np

from core.base.files import read_json
from core.base.nested import nest
from core.base.torch_file import Tensor, is_torch_file, read_structure, read_tensors
from core.evals.heads import EPS, AttentiveHead
from core.method import Classifier
from jepa.weights import hf_config, hf_weights

META_HEADS = 16  # of Meta's probes, whatever the encoder has

# Ours -> transformers' and Meta's names. In Meta's, "qkv:0" is the first third of the rows.
BLOCK = {
    "norm1": ("layer_norm1", "norm1"),
    "attention/query": ("self_attn.q_proj", "attn.qkv:0/3"),
    "attention/key": ("self_attn.k_proj", "attn.qkv:1/3"),
    "attention/value": ("self_attn.v_proj", "attn.qkv:2/3"),
    "attention/out": ("self_attn.out_proj", "attn.proj"),
    "norm2": ("layer_norm2", "norm2"),
    "mlp/up": ("mlp.fc1", "mlp.fc1"),
    "mlp/down": ("mlp.fc2", "mlp.fc2"),
}
CROSS = {
    "norm1": ("layer_norm1", "norm1"),
    "q": ("cross_attn.q_proj", "xattn.q"),
    "key": ("cross_attn.k_proj", "xattn.kv:0/2"),
    "value": ("cross_attn.v_proj", "xattn.kv:1/2"),
    "norm2": ("layer_norm2", "norm2"),
    "mlp/up": ("mlp.fc1", "mlp.fc1"),
    "mlp/down": ("mlp.fc2", "mlp.fc2"),
}
STYLES = {
    # prefixes of self-attention blocks and of the cross-attention block, the last layer
    "hf": (
        "pooler.self_attention_layers.",
        "pooler.cross_attention_layer.",
        "classifier",
    ),
    "meta": ("pooler.blocks.", "pooler.cross_attention_block.", "linear"),
}
QUERY = "pooler.query_tokens"


def published_classifier(path: pathlib.Path) -> Classifier | None:
    """The classifier of a path, None if it holds none; raises as `read_classifier`."""
    classes: tuple[str, ...] = ()
    if is_torch_file(path):
        content = read_structure(path)
        if not isinstance(content, dict) or "classifiers" not in content:
            return None
    else:
        config = path / hf_config.CONFIG
        known = read_json(config) if config.is_file() else {}
        if known.get("architectures") != [hf_weights.CLASSIFIER]:
            return None
        classes = class_names(known.get("id2label", {}), config)
    head, params = read_classifier(path)
    if classes and len(classes) != head.outputs:
        raise ValueError(
            f"{path}: id2label names {len(classes)} classes, the classifier has "
            f"{head.outputs}"
        )

    def apply(params, tokens):
        return head.apply({"params": params}, tokens)

    return Classifier(apply, params, head.outputs, classes)


def class_names(id2label: Mapping, where) -> tuple[str, ...]:
    """Names by number; empty where they are the numbers that transformers makes up."""
    numbers = [str(i) for i in range(len(id2label))]
    if set(id2label) != set(numbers):
        raise ValueError(f"{where}: id2label must name the classes 0, 1, 2, ...")
    names = tuple(str(id2label[i]) for i in numbers)
    made_up = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return () if made_up else names


def read_classifier(path) -> tuple[AttentiveHead, dict]:
    """(head, float32 params) of a Hugging Face classification folder or Meta's probe file.

    Of a Meta file, which holds one classifier per setting, the first is read. Raises
    ValueError naming the tensor that is missing, unknown or misshapen.
    """
    path = pathlib.Path(path)
    if is_torch_file(path):
        return read_meta(path)
    config = {**hf_config.DEFAULTS, **read_json(path / hf_config.CONFIG)}
    with hf_weights.opened(path / hf_weights.TENSORS) as file:
        prefixes = ("pooler.", "classifier.")
        found = {
            name: file.get_tensor(name).astype(np.float32)
            for name in file.keys()
            if name.startswith(prefixes)
        }
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    return from_tensors(found, "hf", heads=heads, eps=eps, where=path)


def read_meta(path: pathlib.Path) -> tuple[AttentiveHead, dict]:
    """The first classifier of a file whose entry `classifiers` is a list of state dicts."""
    content = read_structure(path)
    listed = content.get("classifiers") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        raise ValueError(
            f"{path} holds no list `classifiers`: it is no probe of Meta's"
        )
    tensors = {k.removeprefix("module."): x for k, x in listed[0].items()}
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{path}: {name} is {type(x).__name__}, no tensor")
    found = {k: x.astype(np.float32) for k, x in read_tensors(path, tensors).items()}
    return from_tensors(found, "meta", heads=META_HEADS, eps=EPS, where=path)


def from_tensors(
    tensors: Mapping[str, np.ndarray], style: str, *, heads: int, eps: float, where
) -> tuple[AttentiveHead, dict]:
    """(head, params) of tensors named in one of STYLES; strict in names and shapes."""
    blocks, cross, last = STYLES[style]
    indices = {
        int(n[len(blocks) :].split(".")[0]) for n in tensors if n.startswith(blocks)
    }
    depth = len(indices) + 1
    flat, used = {}, set()

    def take(ours: str, theirs: str, prefix: str):
        theirs, _, part = theirs.partition(":")
        for kind in ("weight", "bias"):
            name = f"{prefix}{theirs}.{kind}"
            if name not in tensors:
                raise ValueError(f"{where}: {name} is missing")
            used.add(name)
            x = tensors[name]
            if part:
                index, count = map(int, part.split("/"))
                x = np.split(x, count)[index]
            key = kind if kind == "bias" else ("scale" if x.ndim == 1 else "kernel")
            flat[f"{ours}/{key}"] = x.T if x.ndim == 2 else x

    column = list(STYLES).index(style)
    for i in range(depth - 1):
        for ours, names in BLOCK.items():
            take(f"pooler/block{i}/{ours}", names[column], f"{blocks}{i}.")
    for ours, names in CROSS.items():
        take(f"pooler/{ours}", names[column], cross)
    take("linear", last, "")
    hf_weights.check_names({QUERY, *used}, set(tensors), where)
    flat["pooler/query"] = tensors[QUERY]
    D, outputs = flat["linear/kernel"].shape
    head = AttentiveHead(outputs, depth, heads, eps)
    check_shapes(flat, head, D, where)
    return head, nest(flat)


def check_shapes(flat: Mapping, head: AttentiveHead, width: int, where) -> None:
    """Raise ValueError for the first array whose shape is not the head's."""
    for name, x in flat.items():
        wanted = shape_of(name, head.outputs, width)
        if x.shape != wanted:
            raise ValueError(f"{where}: {name} has shape {x.shape}, expected {wanted}")


def shape_of(name: str, outputs: int, width: int) -> tuple[int, ...]:
    """The shape of an array of a head of this width."""
    sizes = {"mlp/up": (width, 4 * width), "mlp/down": (4 * width, width)}
    sizes["linear"] = (width, outputs)
    if name == "pooler/query":
        return (1, 1, width)
    layer, _, kind = name.rpartition("/")
    ends = [size for end, size in sizes.items() if layer.endswith(end)]
    rows, columns = ends[0] if ends else (width, width)
    return (rows, columns) if kind == "kernel" else (columns,)
