"""The V-JEPA step in PyTorch, written for speed; `launch.bench --peer=torch`.

What a careful author of the step would do: one compiled program for the loss and its
gradient, fused attention, q, k and v in one product, both mask patterns in one pass, only
the context's patches embedded, rotary tables taken by index, frozen targets without a graph.
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from core.nn.positions import rope_tables
from jepa.nets.model import MEAN, STD

VERSIONS = f"torch {torch.__version__}, compiled"
NORMS = ("norm1", "norm2", "layernorm")


class Program:
    """The networks of a Hugging Face folder as plain tensors, and their loss on a batch.

    Attributes:
      trained, encoder: lists of tensors; target: the averages of `encoder`, in its order.
    """

    def __init__(self, folder, batch: dict, sizes: dict):
        folder = pathlib.Path(folder)
        config = json.loads((folder / "config.json").read_text())
        self.weights = fused(load_file(folder / "model.safetensors"), config)
        for w in self.weights.values():
            w.requires_grad_()
        names = [name for name in self.weights if name.startswith("encoder.")]
        averages = {k: self.weights[k].detach().clone() for k in names}
        self.trained = list(self.weights.values())
        self.encoder = [self.weights[name] for name in names]
        self.target = list(averages.values())
        self.sizes = {name: tuple(sizes[name]) for name in ("context", "target")}
        self.batch = {k: torch.from_numpy(batch[k]) for k in ("video", *self.sizes)}
        grid = Grid(config)
        networks = {
            name: Stack(name, config, grid, self.weights)
            for name in ("encoder", "predictor")
        }
        teacher = Stack("encoder", config, grid, averages)
        self.compute = torch.compile(
            lambda video, context, target: loss(
                networks, teacher, grid, self.sizes, video, context, target
            ),
            dynamic=False,
        )

    def loss(self):
        return self.compute(*self.batch.values())


class Grid:
    """Tokens of a clip along time, row and column, and their pixels."""

    def __init__(self, config):
        side = config["crop_size"] // config["patch_size"]
        self.patch = config["tubelet_size"], config["patch_size"]
        self.shape = config["frames_per_clip"] // self.patch[0], side, side
        self.tokens = int(np.prod(self.shape))
        self.mean, self.std = torch.from_numpy(MEAN), torch.from_numpy(STD)

    def patches(self, video):
        """uint8 [B, T, H, W, 3] -> uint8 [B, N, pixels of a patch, 3]."""
        (t, h, w), (pt, p) = self.shape, self.patch
        x = video.reshape(-1, t, pt, h, p, w, p, 3)
        x = x.permute(0, 1, 3, 5, 2, 4, 6, 7)
        return x.reshape(len(video), self.tokens, pt * p * p, 3)

    def standardize(self, patches):
        """uint8 [B, n, pixels, 3] -> float32 [B, n, 3 pixels]."""
        return ((patches / 255 - self.mean) / self.std).flatten(2)

    def tables(self, head_dim: int):
        """Cosines and sines of all tokens, [N, head_dim] each, for halved channels."""
        where = np.stack(np.unravel_index(np.arange(self.tokens), self.shape), -1)
        tables = rope_tables(where[None], head_dim=head_dim, variant="tiled")
        return [torch.from_numpy(x[0]).reshape(self.tokens, -1) for x in tables]


class Stack:
    """Transformer blocks of one network, with its weights by name."""

    def __init__(self, name, config, grid, weights):
        prefix = "" if name == "encoder" else "pred_"
        self.name, self.weights = name, weights
        self.depth = config[f"{prefix}num_hidden_layers"]
        self.heads = config[f"{prefix}num_attention_heads"]
        self.eps = config["layer_norm_eps"]
        width = config[f"{prefix}hidden_size"]
        self.rope = grid.tables(width // self.heads)

    def linear(self, name, x):
        w = self.weights
        return F.linear(
            x, w[f"{self.name}.{name}.weight"], w[f"{self.name}.{name}.bias"]
        )

    def norm(self, name, x):
        w = self.weights
        weight, bias = (w[f"{self.name}.{name}.{k}"] for k in ("weight", "bias"))
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)

    def __call__(self, x, index, sizes):
        """Tokens [B, sum(sizes), D] -> the same shape; each of `sizes` sees itself only."""
        cos, sin = (t if index is None else t[index] for t in self.rope)
        cos, sin = (t.unsqueeze(-2) for t in (cos, sin))
        for i in range(self.depth):
            y = self.norm(f"layer.{i}.norm1", x)
            y = self.attend(self.linear(f"layer.{i}.attention.qkv", y), cos, sin, sizes)
            x = x + self.linear(f"layer.{i}.attention.proj", y)
            y = self.norm(f"layer.{i}.norm2", x)
            y = F.gelu(self.linear(f"layer.{i}.mlp.fc1", y))
            x = x + self.linear(f"layer.{i}.mlp.fc2", y)
        return self.norm("layernorm", x)

    def attend(self, qkv, cos, sin, sizes):
        """Queries, keys and values [B, N, 3 D] -> [B, N, D]."""
        B, N, D = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        q, k, v = qkv.reshape(B, N, 3, self.heads, D // self.heads).unbind(2)
        q, k = (x * cos + swap(x) * sin for x in (q, k))
        if len(set(sizes)) == 1:  # equal segments are rows of one call
            q, k, v = (
                x.reshape(B * len(sizes), sizes[0], *x.shape[2:]) for x in (q, k, v)
            )
            return attention(q, k, v).reshape(B, N, D)
        parts = zip(*(x.split(sizes, 1) for x in (q, k, v)), strict=True)
        return torch.cat([attention(*part) for part in parts], 1).reshape(B, N, D)


def attention(q, k, v):
    """Fused attention of [B, N, heads, d]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def swap(x):
    """The two halves of the channels in the other order."""
    return torch.cat(x.chunk(2, -1)[::-1], -1)


def fused(weights: dict, config: dict) -> dict:
    """Weights with q, k and v in one matrix, halved channels, and patches flattened."""
    out = {}
    for name, x in weights.items():
        if ".patch_embeddings.proj.weight" in name:
            x = x.permute(0, 2, 3, 4, 1).flatten(1)
        name = name.replace(".embeddings.patch_embeddings.proj.", ".embed.")
        name = name.replace(".embeddings.predictor_embeddings.", ".embed.")
        out[name] = x.contiguous()
    for name in [n for n in out if ".attention.query." in n]:
        prefix = "pred_" if name.startswith("predictor") else ""
        heads = config[f"{prefix}num_attention_heads"]
        parts = [
            out.pop(name.replace(".query.", f".{k}."))
            for k in ("query", "key", "value")
        ]
        parts[:2] = [halve(x, heads) for x in parts[:2]]
        out[name.replace(".query.", ".qkv.")] = torch.cat(parts)
    return out


def halve(x, heads: int):
    """Rows [heads d, ...] with the first members of all channel pairs of a head first."""
    y = x.reshape(heads, -1, 2, *x.shape[1:]).transpose(1, 2)
    return y.reshape(x.shape)


def take(x, index):
    """Tokens [B, N, ...] at index [B, n] -> [B, n, ...]."""
    rows = torch.arange(len(x))[:, None]
    return x[rows, index]


def loss(networks, teacher, grid, sizes, video, context, target):
    """Mean over patterns of the mean absolute error at target tokens."""
    patches = grid.patches(video)
    with torch.no_grad():
        truth = teacher(
            teacher.linear("embed", grid.standardize(patches)), None, (grid.tokens,)
        )
        truth = F.layer_norm(truth, truth.shape[-1:], eps=1e-5)
        truth = take(truth, target)
    encoder, predictor = networks["encoder"], networks["predictor"]
    x = encoder.linear("embed", grid.standardize(take(patches, context)))
    x = predictor.linear("embed", encoder(x, context, sizes["context"]))
    token = predictor.weights["predictor.embeddings.mask_tokens"][0, 0]
    # Context and target of each pattern, pattern after pattern.
    seen, index = x.split(sizes["context"], 1), context.split(sizes["context"], 1)
    hidden = [token.expand(len(x), m, -1) for m in sizes["target"]]
    goals = target.split(sizes["target"], 1)
    pairs = zip(seen, hidden, strict=True), zip(index, goals, strict=True)
    x, index = (torch.cat([y for pair in part for y in pair], 1) for part in pairs)
    both = list(zip(sizes["context"], sizes["target"], strict=True))
    x = predictor(x, index, tuple(c + m for c, m in both))
    x = torch.cat(x.split([n for pair in both for n in pair], 1)[1::2], 1)
    error = (predictor.linear("proj", x) - truth).abs()
    return torch.stack([e.mean() for e in error.split(sizes["target"], 1)]).mean()
