"""V-JEPA weights in Meta's .pt files: encoder, target, predictor and AdamW's moments.

A file holds `encoder`, `target_encoder` (or `ema_encoder`), `predictor` and perhaps `opt`,
state dicts whose names may begin with `module.` and `backbone.`. Files say nothing of
positions, epsilons and the predictor's heads: those of the config count.
Read by core/base/torch_file.py, which executes nothing.
"""

import collections
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np
import optax

from core.base.nested import nest
from core.base.torch_file import Tensor, read_structure, read_tensors
from jepa import weights
from jepa.model import SIZES, Encoder, Predictor, encoder_size

TARGETS = ("target_encoder", "ema_encoder")  # the second in files of distilled models
# Tables of positions: computed here, and stale in some files of rotary models.
IGNORED = ("pos_embed", "predictor_pos_embed")
MASK_TOKEN = "mask_tokens."
# Names of the Hugging Face format (jepa/weights.py), without the part -> Meta's.
NAMES = {
    r"embeddings\.patch_embeddings\.proj\.": "patch_embed.proj.",
    r"embeddings\.predictor_embeddings\.": "predictor_embed.",
    r"layernorm\.": "norm.",
    r"proj\.": "proj.",
    r"layer\.(\d+)\.attention\.proj\.": r"blocks.\1.attn.proj.",
    r"layer\.(\d+)\.attention\.(query|key|value)\.": r"blocks.\1.attn.qkv.",
    r"layer\.(\d+)\.": r"blocks.\1.",
}
# Entries that only other networks have -> what they are.
OTHERS = {
    "norms_block.0.weight": "V-JEPA 2.1, whose levels each have a norm",
    "patch_embed_img.proj.weight": "V-JEPA 2.1, which embeds images by themselves",
    "predictor_proj_context.weight": "V-JEPA 2.1, which predicts the context too",
    "action_encoder.weight": "V-JEPA 2-AC, which is conditioned on actions",
}


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


def fields_of(part: str, entries: Mapping[str, Tensor], where: str) -> dict:
    """The fields of an Encoder or Predictor that follow from the shapes of its tensors.

    Heads are those of the published size of this width, depth and hidden width, if any.

    Raises ValueError for the networks of other methods and for missing tensors.
    """
    for name, what in OTHERS.items():
        if name in entries:
            hint = "; use --config.init_parts=encoder" if part == "predictor" else ""
            raise ValueError(f"{where}: {name} belongs to {what}; it is not read{hint}")
    first = {
        "encoder": "patch_embed.proj.weight",
        "predictor": "predictor_embed.weight",
    }
    blocks = {"encoder": "blocks", "predictor": "predictor_blocks"}[part]
    needed = first[part], f"{blocks}.0.mlp.fc1.weight"
    for name in needed:
        if name not in entries:
            raise ValueError(f"{where}: {name} is missing")
    shape, (hidden, _) = (entries[name].shape for name in needed)
    fields = {
        "width": shape[0],
        "depth": 1
        + max(int(n.split(".")[1]) for n in entries if n.startswith(f"{blocks}.")),
        "hidden": hidden,
        "qkv_bias": f"{blocks}.0.attn.qkv.bias" in entries,
    }
    if part == "encoder":
        for size in map(encoder_size, SIZES):
            heads = size.pop("heads")
            if size.items() <= fields.items():
                fields["heads"] = heads
        return fields | {"patch": tuple(shape[2:])}
    tokens = sum(name.startswith(MASK_TOKEN) for name in entries)
    return fields | {"out": shape[1], "mask_tokens": tokens}


def meta_name(theirs: str) -> str:
    """Meta's name of a tensor of the Hugging Face format, both without the part."""
    for pattern, name in NAMES.items():
        if re.match(pattern, theirs):
            return re.sub(f"^{pattern}", name, theirs)
    raise AssertionError(theirs)


def rows_of(part: str, encoder: Encoder, predictor: Predictor) -> list[weights.Row]:
    """The rows of a part in the table of the Hugging Face format, named as Meta does.

    Mask tokens are one row each. Rows of query, key and value share a name.
    """
    rows = []
    for row in weights.table(encoder, predictor):
        if not row.ours.startswith(f"{part}/"):
            continue
        name = row.theirs.removeprefix(f"{part}.")
        if name == "embeddings.mask_tokens":
            rows += [
                weights.Row(row.ours, i, f"{MASK_TOKEN}{i}", (1, 1, row.shape[-1]))
                for i in range(row.shape[0])
            ]
            continue
        name = meta_name(name)
        if part == "predictor" and not name.startswith("predictor_"):
            name = f"predictor_{name}"
        rows.append(row._replace(theirs=name))
    return rows


def read_part(
    path,
    part: str,
    entries: Mapping[str, Tensor | None],
    modules: tuple[Encoder, Predictor],
    entry: str,
) -> dict:
    """float32 params of an encoder or a predictor, nested.

    entries: the state dict named `entry`; None in it is all zeros.

    Raises ValueError for the first tensor that is missing, unknown, misshapen or damaged.
    """
    where, rows = f"{path}: {entry}", rows_of(part, *modules)
    found = {name: x for name, x in entries.items() if name not in IGNORED}
    weights.check_names({row.theirs for row in rows}, set(found), where)
    thirds = collections.Counter()  # of a qkv tensor: query, then key, then value
    values, flat, layer = {}, {}, None
    for row in rows:
        joint = ".attn.qkv." in row.theirs
        shape = (3 * row.shape[0], *row.shape[1:]) if joint else row.shape
        tensor = found[row.theirs]
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{where}: {row.theirs} has shape {list(tensor.shape)}, not {list(shape)}"
            )
        if row.layer != layer:  # one block at a time stays in memory
            values, layer = {}, row.layer
        if row.theirs not in values:
            values |= (
                {row.theirs: np.zeros(shape)}
                if tensor is None
                else read_tensors(path, {row.theirs: tensor})
            )
        x = values[row.theirs].astype(np.float32)
        if joint:
            x = np.split(x, 3)[thirds[row.theirs]]
            thirds[row.theirs] += 1
        x = x.reshape(-1) if row.theirs.startswith(MASK_TOKEN) else weights.to_ours(x)
        flat.setdefault(row.ours, []).append(x)
    stacked = {row.ours for row in rows if row.layer is not None}
    flat = {k: np.stack(x) if k in stacked else x[0] for k, x in flat.items()}
    return nest(flat)[part]


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


def read_moments(path, content: Mapping, modules) -> optax.ScaleByAdamState:
    """The moments of AdamW in a file, as `core.optim.adam_moments` lays them out."""
    where, names = str(path), ("encoder", "predictor")
    trees = {}
    for which in ("exp_avg", "exp_avg_sq"):
        found = moments(content, names, which, where)
        trees[which] = {
            name: read_part(path, name, found[name], modules, f"opt/{which} of {name}")
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
