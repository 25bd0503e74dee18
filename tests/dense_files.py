"""State dicts of V-JEPA 2.1 and 2-AC with random values, by the names Meta's files have."""

import numpy as np
import torch_zip

PATCH = (2, 16, 16)
ENCODER = {"width": 36, "depth": 4, "hidden": 56, "levels": 2}
HEADS = 3
PREDICTOR = {
    "width": 28, "depth": 2, "hidden": 40, "features": 36, "levels": 2, "out": 36,
    "mask_tokens": 3,
}  # fmt: skip
PREDICTOR_HEADS = 2
# Of a distilled encoder: one level in, and one out that is as wide as the teacher's.
DISTILLED = PREDICTOR | {"levels": 1, "out": 44}
ACTION = {"width": 28, "depth": 2, "hidden": 44, "out": 36, "action": 5, "state": 6}
ACTION_HEADS = 2


def pair(name, *shape):
    """Shapes of a weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def blocks(name, depth, D, F):
    found = {}
    for i in range(depth):
        at = f"{name}.{i}"
        found |= pair(f"{at}.norm1", D) | pair(f"{at}.attn.qkv", 3 * D, D)
        found |= pair(f"{at}.attn.proj", D, D) | pair(f"{at}.norm2", D)
        found |= pair(f"{at}.mlp.fc1", F, D) | pair(f"{at}.mlp.fc2", D, F)
    return found


def modalities(width):
    return {"img_mod_embed": (1, 1, width), "video_mod_embed": (1, 1, width)}


def encoder_shapes(*, width, depth, hidden, levels):
    found = pair("patch_embed.proj", width, 3, *PATCH)
    found |= pair("patch_embed_img.proj", width, 3, 1, *PATCH[1:]) | modalities(width)
    found |= blocks("blocks", depth, width, hidden)
    for i in range(levels):
        found |= pair(f"norms_block.{i}", width)
    return found


def predictor_shapes(*, width, depth, hidden, features, levels, out, mask_tokens):
    if levels > 1:
        found = pair("predictor_embed.0", features, levels * features)
        found |= pair("predictor_embed.2", width, features)
    else:
        found = pair("predictor_embed", width, features)
    found |= {f"mask_tokens.{i}": (1, 1, width) for i in range(mask_tokens)}
    found |= modalities(width) | blocks("predictor_blocks", depth, width, hidden)
    found |= pair("predictor_norm", width) | pair("predictor_proj", levels * out, width)
    return found | pair("predictor_proj_context", levels * out, width)


def action_shapes(*, width, depth, hidden, out, action, state):
    found = pair("predictor_embed", width, out) | pair("action_encoder", width, action)
    found |= pair("state_encoder", width, state)
    found |= pair("extrinsics_encoder", width, action - 1)
    found |= blocks("predictor_blocks", depth, width, hidden)
    return found | pair("predictor_norm", width) | pair("predictor_proj", out, width)


def random(shapes, seed) -> dict:
    """Every value random, so that each bias, norm and token matters."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write(folder, **content):
    """FOLDER/vit.pt of state dicts by entry, names prefixed as DDP and the wrapper do."""
    path = folder / "vit.pt"
    whole = {
        entry: {f"module.backbone.{name}": x for name, x in tensors.items()}
        for entry, tensors in content.items()
    }
    torch_zip.save(path, whole | {"epoch": 3, "lr": 1e-4})
    return path
