"""V-JEPA weights in Meta's .pt files: encoder, target, predictor and AdamW's moments.

A file holds `encoder`, `target_encoder` (or `ema_encoder`), `predictor` and perhaps `opt`,
state dicts whose names may begin with `module.` and `backbone.`; jepa/weights/meta_names.py has
the names. Files say nothing of positions, epsilons and the predictor's heads: those of the
config count. Read by core/base/torch_file.py, which executes nothing.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np
import optax

from core.base.torch_file import Tensor, read_structure, read_tensors
from jepa.weights import hf_weights, meta_names
from jepa.weights.meta_names import IGNORED, MASK_TOKEN

TARGETS = ("target_encoder", "ema_encoder")  # the second in files of distilled models


def read_file(path: pathlib.Path) -> dict:
    """The content of a file as `read_structure` gives it, state dicts without prefixes.

    Raises ValueError if it is no checkpoint of V-JEPA.
    """
    content = read_structure(path)
    if not isinstance(content, dict) or not any(
        k in content for k in ("encoder", *TARGETS)
    ):
        held = list(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds {held}, expected an encoder or target_encoder")
    parts = ("encoder", "predictor", *TARGETS)
    return content | {
        name: without_prefixes(content[name], f"{path}: {name}")
        for name in parts
        if name in content
    }


def entries_of(content: Mapping, parts: tuple[str, ...]) -> dict[str, str]:
    """Part -> the entry of the file that fills it, for `parts` or all that is there."""
    online = "encoder" if "encoder" in content else None
    target = next((name for name in TARGETS if name in content), None)
    both = not parts or "target" in parts
    entries = {
        "encoder": (online or target) if both else (target or online),
        "target": target,
        "predictor": "predictor" if "predictor" in content else None,
        "opt": "opt" if "opt" in content else None,
    }
    return {
        part: entry
        for part, entry in entries.items()
        if entry and (part in parts or not parts)
    }


def without_prefixes(entries: Mapping, where: str) -> dict[str, Tensor]:
    """Names without "module." and "backbone."; raises ValueError for other entries."""
    plain = {}
    for name, tensor in entries.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{where}: {name} is {type(tensor).__name__}, no tensor")
        plain[re.sub(r"^(module\.|backbone\.)*", "", name)] = tensor
    if len(plain) < len(entries):
        raise ValueError(f"{where}: names coincide without their prefixes")
    return plain


def read_part(path, entries: Mapping[str, Tensor | None], module, entry: str) -> dict:
    """float32 params of a network, nested.

    entries: the state dict named `entry`; None in it is all zeros.

    Raises ValueError for the first tensor that is missing, unknown, misshapen or damaged.
    """
    where, rows = f"{path}: {entry}", meta_names.table(module)
    found = {name: x for name, x in entries.items() if name not in IGNORED}
    hf_weights.check_names({row.theirs for row in rows}, set(found), where)
    for row in rows:
        tensor, shape = found[row.theirs], meta_names.file_shape(row)
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{where}: {row.theirs} has shape {list(tensor.shape)}, not {list(shape)}"
            )
    values: dict[str, np.ndarray] = {}
    layer = None

    def read(row: meta_names.Row) -> np.ndarray:
        nonlocal layer
        if row.layer != layer:  # one block at a time stays in memory
            values.clear()
            layer = row.layer
        if row.theirs not in values:
            tensor = found[row.theirs]
            values.update(
                {row.theirs: np.zeros(meta_names.file_shape(row))}
                if tensor is None
                else read_tensors(path, {row.theirs: tensor})
            )
        return values[row.theirs]

    return meta_names.gather(rows, read)


def moments(
    content: Mapping, names: Iterable[str], which: str, where: str
) -> dict[str, dict[str, Tensor | None]]:
    """Moments of AdamW by part and name, as entries of a state dict.

    Meta's trainer makes four groups of parameters: those of the encoder, then those of the
    predictor, that decay; then biases and vectors of both. Groups number their parameters
    in the order of the state dict. which: "exp_avg" or "exp_avg_sq". Mask tokens that no
    mask pattern used have no moments: None.

    Raises ValueError if the numbers or shapes do not fit.
    """
    names, opt = tuple(names), content["opt"]
    decayed, plain = [], []
    for part in names:
        for name, tensor in content[part].items():
            vector = "bias" in name or len(tensor.shape) == 1
            (plain if vector else decayed).append((part, name))
    order = decayed + plain
    indices = [i for group in opt["param_groups"] for i in group["params"]]
    if len(indices) != len(order):
        raise ValueError(
            f"{where}: opt numbers {len(indices)} parameters, {' and '.join(names)} have "
            f"{len(order)}"
        )
    found = {part: {} for part in names}
    for i, (part, name) in zip(indices, order, strict=True):
        entry = opt["state"].get(i)
        if entry is None and (name in IGNORED or name.startswith(MASK_TOKEN)):
            found[part][name] = None
            continue
        tensor = None if entry is None else entry[which]
        if tensor is None or tensor.shape != content[part][name].shape:
            shape = None if tensor is None else list(tensor.shape)
            raise ValueError(
                f"{where}: opt/{which} of {part}.{name} has shape {shape}, expected "
                f"{list(content[part][name].shape)}"
            )
        found[part][name] = tensor
    return found


def read_moments(path, content: Mapping, modules: Mapping) -> optax.ScaleByAdamState:
    """The moments of AdamW in a file, as `core.optim.adam_moments` lays them out.

    modules: "encoder" and "predictor".
    """
    where, names = str(path), ("encoder", "predictor")
    trees = {}
    for which in ("exp_avg", "exp_avg_sq"):
        found = moments(content, names, which, where)
        trees[which] = {
            name: read_part(path, found[name], modules[name], f"opt/{which} of {name}")
            for name in names
        }
    return optax.ScaleByAdamState(
        count=read_count(path, content["opt"]["state"]),
        mu=trees["exp_avg"],
        nu=trees["exp_avg_sq"],
    )


def read_count(path, state: Mapping) -> np.ndarray:
    """Updates that an optimizer has done, int32 []; all parameters must agree on them."""
    steps = {str(i): entry["step"] for i, entry in state.items()}
    tensors = {i: x for i, x in steps.items() if isinstance(x, Tensor)}
    counts = {int(x) for x in (steps | read_tensors(path, tensors)).values()}
    if len(counts) != 1:
        raise ValueError(
            f"{path}: opt counts {sorted(counts)} updates, expected one number"
        )
    return np.array(counts.pop(), np.int32)
