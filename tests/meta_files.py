"""V-JEPA files as Meta's trainer writes them, with the weights of the Hugging Face fixture."""

import re

import numpy as np
import torch_zip
from safetensors.numpy import load_file
from tiny_vjepa2 import FIXTURE

TENSORS = load_file(FIXTURE / "model.safetensors")


def meta_names(part: str, tensors: dict) -> dict:
    """The tensors of a part of the Hugging Face fixture under Meta's names, qkv joined."""
    found = {}
    for name, x in tensors.items():
        if not name.startswith(f"{part}."):
            continue
        name = name.removeprefix(f"{part}.").replace("attention.proj", "attn.proj")
        for ours, theirs in {
            "embeddings.patch_embeddings.": "patch_embed.",
            "embeddings.predictor_embeddings": "predictor_embed",
            "layer.": "blocks." if part == "encoder" else "predictor_blocks.",
            "layernorm": "norm" if part == "encoder" else "predictor_norm",
        }.items():
            name = re.sub(f"^{re.escape(ours)}", theirs, name)
        if name.startswith("proj."):
            name = f"predictor_{name}"
        if name == "embeddings.mask_tokens":
            found |= {f"mask_tokens.{i}": row for i, row in enumerate(x)}
        elif ".attention." not in name:
            found[name] = x
        elif ".attention.query." in name:
            rows = [name.replace("query", third) for third in ("query", "key", "value")]
            rows = [tensors[inverse(part, row)] for row in rows]
            found[name.replace("attention.query", "attn.qkv")] = np.concatenate(rows)
    return found


def inverse(part, name):
    """The fixture's name of a tensor of a block, from a name with Meta's "blocks"."""
    return f"{part}." + re.sub(r"^(predictor_)?blocks", "layer", name)


def scaled(entries: dict, factor: float) -> dict:
    return {name: np.float32(factor) * x for name, x in entries.items()}


def prefixed(entries: dict, prefix="module.backbone.") -> dict:
    return {prefix + name: x for name, x in entries.items()}


ENCODER, PREDICT = (meta_names(part, TENSORS) for part in ("encoder", "predictor"))


def optimizer(parts: list[dict], used=()) -> dict:
    """AdamW's state of Meta's trainer: moments are 0.25 and 0.5 of each parameter.

    used: mask tokens that had gradients; the others have no state.
    """
    groups: list[list] = []
    for vectors in (False, True):
        for entries in parts:
            groups.append(
                [
                    (n, x)
                    for n, x in entries.items()
                    if vectors == ("bias" in n or x.ndim == 1)
                ]
            )
    state, numbers, i = {}, [], 0
    for group in groups:
        numbers.append({"lr": 0.5, "params": list(range(i, i + len(group)))})
        for name, x in group:
            if not name.startswith("mask_tokens.") or int(name[-1]) in used:
                state[i] = {
                    "step": np.array(7, np.float32),
                    "exp_avg": 0.25 * x,
                    "exp_avg_sq": 0.5 * x,
                }
            i += 1
    return {"state": state, "param_groups": numbers}


def write(folder, **content):
    """FOLDER/vit.pt; `content` replaces entries, None removes one."""
    path = folder / "vit.pt"
    whole = {
        "encoder": prefixed(scaled(ENCODER, 2.0)),
        "target_encoder": prefixed(ENCODER),
        "predictor": prefixed(PREDICT),
        "opt": optimizer([ENCODER, PREDICT], used=(0,)),
        "scaler": None, "epoch": 3, "loss": 0.5, "lr": 1e-4,
    }  # fmt: skip
    whole |= content
    torch_zip.save(path, {k: v for k, v in whole.items() if v is not None})
    return path
