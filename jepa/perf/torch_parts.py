"""Pieces of training steps in PyTorch, written for speed; shared by the peers peer_torch_*.

Networks are plain trees of tensors, made of our weights by path: q, k and v in one matrix,
kernels [out, in]. Needs PyTorch and numpy, and nothing of JAX.
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

VERSIONS = f"torch {torch.__version__}, compiled"


def read_given(folder):
    """What jepa.perf.peer wrote: (settings, weights by path, other arrays by name)."""
    folder = pathlib.Path(folder)
    with np.load(folder / "step.npz") as found:
        arrays = {name: torch.from_numpy(found[name]) for name in found.files}
    weights, given = {}, {}
    for name, x in arrays.items():
        x = x.long() if x.dtype == torch.int32 else x
        if name.startswith("params/"):
            weights[name.removeprefix("params/")] = x
        else:
            given[name] = x
    return json.loads((folder / "step.json").read_text()), weights, given


def make_network(
    weights: dict, name: str, heads: int = 0, *, rotary: bool = True
) -> dict:
    """One network of `weights` by path: layers by name, "blocks" a list of them.

    rotary: whether channels of queries and keys are halved, as `rotate` expects.
    """
    tree, prefix, stack = {}, f"{name}/", f"{name}/stack/blocks/"
    for path, x in weights.items():
        if path.startswith(stack) or not path.startswith(prefix):
            continue
        parent, _, leaf = path.removeprefix(prefix).rpartition("/")
        if parent:
            place, x = ("bias", x) if leaf == "bias" else ("weight", x)
            x = x.T if leaf == "kernel" else x
            tree.setdefault(parent, {})[place] = trained(x)
        else:
            tree[leaf] = trained(x)
    inside = {
        k.removeprefix(stack): x for k, x in weights.items() if k.startswith(stack)
    }
    if inside:
        depth = len(inside["norm1/scale"])
        layers = ({k: x[i] for k, x in inside.items()} for i in range(depth))
        tree["blocks"] = [make_block(x, heads, rotary) for x in layers]
    return tree


def make_block(w: dict, heads: int, rotary: bool) -> dict:
    """One transformer block of arrays by name."""
    kernels, biases = [], []
    for name in ("query", "key", "value"):
        kernel, bias = w[f"attention/{name}/kernel"].T, w[f"attention/{name}/bias"]
        if rotary and name != "value":
            kernel, bias = halve(kernel, heads), halve(bias, heads)
        kernels.append(kernel)
        biases.append(bias)
    block = {"qkv": {"weight": torch.cat(kernels), "bias": torch.cat(biases)}}
    for name, place in (
        ("out", "attention/out"),
        ("up", "mlp/up"),
        ("down", "mlp/down"),
    ):
        block[name] = {"weight": w[f"{place}/kernel"].T, "bias": w[f"{place}/bias"]}
    for name in ("norm1", "norm2"):
        block[name] = {"weight": w[f"{name}/scale"], "bias": w[f"{name}/bias"]}
    return {
        name: {k: trained(x) for k, x in part.items()} for name, part in block.items()
    }


def trained(x):
    return x.detach().clone().contiguous().requires_grad_()


def halve(x, heads: int):
    """Rows [heads d, ...] with the first members of all channel pairs of a head first."""
    y = x.reshape(heads, -1, 2, *x.shape[1:]).transpose(1, 2)
    return y.reshape(x.shape)


def tensors_of(tree) -> list:
    """All tensors of a tree, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [x for part in parts for x in tensors_of(part)]


def copy_of(tree):
    """The tree with copies of its tensors that are not trained."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {name: copy_of(part) for name, part in tree.items()}
    return [copy_of(part) for part in tree]


def linear(layer, x):
    return F.linear(x, layer["weight"], layer.get("bias"))


def layer_norm(layer, x, eps: float = 1e-6):
    return F.layer_norm(x, x.shape[-1:], layer["weight"], layer["bias"], eps)


def run_blocks(blocks, x, rope, sizes, *, heads: int, levels=(), last=None):
    """Tokens [B, sum(sizes), D] -> the same shape; each of `sizes` sees itself only.

    Args:
      rope: (cos, sin), each [B or 1, N, D / heads], or None.
      levels: blocks whose outputs are returned side by side on the channels.
      last: number of last tokens that are returned; the last block computes no others.
    """
    outputs = []
    if rope is not None:
        rope = tuple(table.unsqueeze(-2) for table in rope)
    for i, w in enumerate(blocks):
        keep = x.shape[1] if last is None or i < len(blocks) - 1 else last
        y = linear(w["qkv"], layer_norm(w["norm1"], x))
        y = attend(y, rope, sizes, heads, keep)
        x = x[:, x.shape[1] - keep :] + linear(w["out"], y)
        y = F.gelu(linear(w["up"], layer_norm(w["norm2"], x)))
        x = x + linear(w["down"], y)
        if i in levels:
            outputs.append(x)
    return torch.cat(outputs, -1) if levels else x


def attend(qkv, rope, sizes, heads: int, keep: int):
    """Queries, keys and values [B, N, 3 D] -> [B, keep, D] of the last queries."""
    B, N, D = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.reshape(B, N, 3, heads, D // heads).unbind(2)
    if rope is not None:
        q, k = (x * rope[0] + swap(x) * rope[1] for x in (q, k))
    q = q[:, N - keep :]
    if len(sizes) == 1:
        return attention(q, k, v).reshape(B, keep, D)
    if len(set(sizes)) == 1:  # equal segments are rows of one call
        q, k, v = (x.reshape(-1, sizes[0], *x.shape[2:]) for x in (q, k, v))
        return attention(q, k, v).reshape(B, N, D)
    parts = zip(*(x.split(sizes, 1) for x in (q, k, v)), strict=True)
    return torch.cat([attention(*part) for part in parts], 1).reshape(B, N, D)


def attention(q, k, v, *, causal: bool = False):
    """Fused attention of [B, N, heads, d]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def swap(x):
    """The two halves of the channels in the other order."""
    return torch.cat(x.chunk(2, -1)[::-1], -1)


def take(x, index):
    """Tokens [B, N, ...] at index [B, n] -> [B, n, ...]."""
    return x[torch.arange(len(x))[:, None], index]


def patches_of(video, patch):
    """uint8 [B, T, H, W, 3] -> uint8 [B, N, pixels of a patch, 3]."""
    (B, T, H, W, _), (pt, ph, pw) = video.shape, patch
    x = video.reshape(B, T // pt, pt, H // ph, ph, W // pw, pw, 3)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(B, -1, pt * ph * pw, 3)


def standardize(pixels, settings):
    """Pixels [B, n, P, 3] of 0..255 -> float32 [B, n, 3 P]."""
    mean, std = torch.tensor(settings["mean"]), torch.tensor(settings["std"])
    return ((pixels / 255 - mean) / std).flatten(2)


def in_turn(contexts, targets):
    """Context, then target of each pattern, pattern after pattern: [B, N, ...]."""
    pairs = zip(contexts, targets, strict=True)
    return torch.cat([x for pair in pairs for x in pair], 1)


def batch_norm(x, scale, bias, eps: float = 1e-5):
    """Rows [..., D] by the statistics of all of them."""
    rows = x.flatten(0, -2)
    return F.batch_norm(rows, None, None, scale, bias, training=True, eps=eps).view_as(
        x
    )


def sigreg(z, directions, *, knots: int = 17, limit: float = 3.0):
    """Epps-Pulley statistic of samples [V, N, D] along directions [D, K] (2511.08544)."""
    step = limit / (knots - 1)
    weight = torch.full((knots,), 2 * step)
    weight[[0, -1]] = step
    normal = torch.exp(-((step * torch.arange(knots)) ** 2) / 2)
    x = z @ directions
    cos, sin = torch.cos(step * x), torch.sin(step * x)
    c, s, error = torch.ones_like(x), torch.zeros_like(x), 0.0
    for j in range(knots):
        gap = (c.mean(-2) - normal[j]).square() + s.mean(-2).square()
        error = error + weight[j] * normal[j] * gap
        c, s = c * cos - s * sin, s * cos + c * sin
    return z.shape[-2] * error.mean()
