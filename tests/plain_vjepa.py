"""V-JEPA 2, 2.1 and 2-AC forward passes in plain numpy, on tensors under Meta's names.

Written loop by loop from the description of the networks, in float64, to compare with
jepa/nets/model.py, jepa/nets/dense_model.py and jepa/worlds/ac_model.py. The number of heads
is given; all other sizes are those of the tensors.
"""

import math

import numpy as np


def linear(w, name, x):
    return x @ np.float64(w[f"{name}.weight"]).T + w[f"{name}.bias"]


def norm(w, name, x, eps=1e-6):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    y = (x - mean) / np.sqrt(variance + eps)
    return y if name is None else y * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x):
    return x * (0.5 + 0.5 * np.vectorize(math.erf)(x / math.sqrt(2)))


def turned(x, where, tiled: bool):
    """Queries or keys [N, d] of a head, rotated by positions [N, 3]."""
    k = 2 * (x.shape[-1] // 3 // 2)
    y = np.array(x)
    for axis in range(3):
        for c in range(k):
            j = c % (k // 2) if tiled else c // 2
            angle = where[:, axis] * 10_000 ** (-j / (k / 2))
            here = axis * k + c
            partner = -x[:, here + 1] if c % 2 == 0 else x[:, here - 1]
            y[:, here] = x[:, here] * np.cos(angle) + partner * np.sin(angle)
    return y


def block(w, name, x, where, heads: int, tiled: bool, seen):
    """A pre-norm block on tokens [N, D]; seen: bool [N, N], keys that a query sees."""
    qkv = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x))
    parts = []
    for q, k, v in zip(
        *(np.split(y, heads, 1) for y in np.split(qkv, 3, 1)), strict=True
    ):
        q, k = turned(q, where, tiled), turned(k, where, tiled)
        scores = np.where(seen, q @ k.T / math.sqrt(q.shape[1]), -np.inf)
        weight = np.exp(scores - scores.max(1, keepdims=True))
        parts.append(weight / weight.sum(1, keepdims=True) @ v)
    x = x + linear(w, f"{name}.attn.proj", np.concatenate(parts, 1))
    y = gelu(linear(w, f"{name}.mlp.fc1", norm(w, f"{name}.norm2", x)))
    return x + linear(w, f"{name}.mlp.fc2", y)


def blocks(w, name, x, where, heads: int, tiled: bool):
    """Tokens after each block of a list, every token seeing all others."""
    seen, found, i = np.ones((len(x), len(x)), bool), [], 0
    while f"{name}.{i}.norm1.weight" in w:
        x = block(w, f"{name}.{i}", x, where, heads, tiled, seen)
        found.append(x)
        i += 1
    return found


def raster(grid, scale=(1, 1, 1)):
    """(time, row, column) of the tokens of a grid, each times its scale."""
    t, h, w = grid
    places = [(a, b, c) for a in range(t) for b in range(h) for c in range(w)]
    return np.array(places) * scale


def scaled_raster(grid, reference=16):
    """Positions of V-JEPA 2.1: the last row and column are at reference - 1."""
    _, h, w = grid
    return raster(grid, (1, (reference - 1) / (h - 1), (reference - 1) / (w - 1)))


def embedded(w, name, clip):
    """A convolution whose kernel is its stride: [T, H, W, 3] -> [N, D], and its grid."""
    kernel = np.float64(w[f"{name}.weight"])  # [D, 3, t, h, w]
    grid = tuple(n // k for n, k in zip(clip.shape[:3], kernel.shape[2:], strict=True))
    tokens = []
    for a, b, c in raster(grid):
        _, _, t, h, v = kernel.shape
        cube = clip[a * t : (a + 1) * t, b * h : (b + 1) * h, c * v : (c + 1) * v]
        tokens.append(np.einsum("thwc,dcthw->d", cube, kernel))
    return np.array(tokens) + w[f"{name}.bias"], grid


def encoder(w, clip, *, heads, keep=None, tiled=True, added=None, summary=None):
    """V-JEPA 2 on the tokens `keep` of a clip [T, H, W, 3], or on all: [n, D].

    tiled: the layout of the rotary tables. added: features of all positions, [N, D], in
    place of rotary ones. summary: a vector [D] that is one more, unrotated token, the last.
    """
    x, grid = embedded(w, "patch_embed.proj", clip)
    where = raster(grid)
    if added is not None:
        x, where = x + added, 0 * where
    if keep is not None:
        x, where = x[keep], where[keep]
    if summary is not None:
        x = np.concatenate([x, np.float64(summary)[None]])
        where = np.concatenate([where, [(0, 0, 0)]])
    return norm(w, "norm", blocks(w, "blocks", x, where, heads, tiled)[-1])


def predictor(w, context, context_index, target_index, grid, *, heads, token, tiled=True,
              added=None):  # fmt: skip
    """V-JEPA 2's predictions at hidden tokens from context features [C, D]: [M, D].

    token: number of the mask token. tiled, added: as for `encoder`.
    """
    x = linear(w, "predictor_embed", context)
    hidden = np.tile(w[f"mask_tokens.{token}"][0], (len(target_index), 1))
    x, index = (
        np.concatenate([x, hidden]),
        np.concatenate([context_index, target_index]),
    )
    where = raster(grid)[index]
    if added is not None:
        x, where = x + added[index], 0 * where
    x = blocks(w, "predictor_blocks", x, where, heads, tiled)[-1]
    x = norm(w, "predictor_norm", x)[len(context_index) :]
    return linear(w, "predictor_proj", x)


def encoder21(w, clip, *, heads, levels, keep=None):
    """All levels of a clip, or of an image if it has one frame: [n, levels D]."""
    kind = "img" if len(clip) == 1 else "video"
    x, grid = embedded(
        w, "patch_embed_img.proj" if kind == "img" else "patch_embed.proj", clip
    )
    x = x + w[f"{kind}_mod_embed"][0]
    where = scaled_raster(grid)
    if keep is not None:
        x, where = x[keep], where[keep]
    found = blocks(w, "blocks", x, where, heads, False)
    found = [norm(w, f"norms_block.{i}", found[n]) for i, n in enumerate(levels)]
    return np.concatenate(found, 1)


def predictor21(w, context, context_index, target_index, grid, *, heads, kind, token):
    """(predictions at hidden, at visible tokens) from context features [C, levels D]."""
    if "predictor_embed.0.weight" in w:
        x = linear(
            w, "predictor_embed.2", gelu(linear(w, "predictor_embed.0", context))
        )
    else:
        x = linear(w, "predictor_embed", context)
    hidden = np.tile(w[f"mask_tokens.{token}"][0], (len(target_index), 1))
    x = np.concatenate([x, hidden]) + w[f"{kind}_mod_embed"][0]
    where = scaled_raster(grid)[np.concatenate([context_index, target_index])]
    order = np.lexsort(where.T[::-1])  # as released: sorted by place, undone below
    x = blocks(w, "predictor_blocks", x[order], where[order], heads, False)[-1]
    x = norm(w, "predictor_norm", x)[np.argsort(order)]
    C = len(context_index)
    return linear(w, "predictor_proj", x[C:]), linear(
        w, "predictor_proj_context", x[:C]
    )


def action_predictor(w, features, actions, states, grid, *, heads, trained_grid=16):
    """Predicted features of the next frames: [T, N, D] from [T, N, D], [T, A], [T, S]."""
    T, N, _ = features.shape
    rows, columns = grid
    tokens, where, step = [], [], []
    places = raster(
        (1, rows, columns), (1, trained_grid / rows, trained_grid / columns)
    )
    for t in range(T):
        tokens += [
            linear(w, "action_encoder", actions[t]),
            linear(w, "state_encoder", states[t]),
        ]
        tokens += list(linear(w, "predictor_embed", features[t]))
        where += [(t, 0, 0), (t, 0, 0), *((t, r, c) for _, r, c in places)]
        step += [t] * (2 + N)
    x, where, step = np.array(tokens), np.array(where), np.array(step)
    seen, i = step[:, None] >= step[None], 0
    while f"predictor_blocks.{i}.norm1.weight" in w:
        x = block(w, f"predictor_blocks.{i}", x, where, heads, True, seen)
        i += 1
    x = x.reshape(T, 2 + N, -1)[:, 2:]
    return linear(w, "predictor_proj", norm(w, "predictor_norm", x))
